//! Links without a C library

fn main() {
    let script = concat!("-Wl,-T,", env!("CARGO_MANIFEST_DIR"), "/discard.ld");
    for argument in [
        "-nostartfiles",
        "-nodefaultlibs",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noseparate-code",
        "-Wl,-z,norelro",
        "-Wl,--no-eh-frame-hdr",
        script,
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=discard.ld");
}
