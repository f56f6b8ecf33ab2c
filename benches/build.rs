//! Builds what is measured of Boost.Interprocess, if its headers are there

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(boost)");
    println!("cargo::rerun-if-changed=boost");
    println!("cargo::rerun-if-env-changed=BOOST_INCLUDE");
    let include = env::var_os("BOOST_INCLUDE").map_or(PathBuf::from("/usr/include"), PathBuf::from);
    if !include.join("boost/interprocess/managed_shared_memory.hpp").exists() {
        println!("cargo::warning=Boost.Interprocess does not take part: no headers (Debian: libboost-dev)");
        return;
    }
    let sources = fs::read_dir("boost").into_iter().flatten().flatten().map(|entry| entry.path());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(include)
        .files(sources)
        .opt_level(3)
        .compile("boost_peers");
    println!("cargo::rustc-cfg=boost");
}
