#![allow(missing_docs)]
use shmem_bind::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = &a[1];
    let pol = if a.len() > 2 && a[2] == "last" { UnlinkPolicy::LastDetach } else { UnlinkPolicy::OwnerDrop };
    let arena =
        Builder::new(n).unlink_policy(pol).with_size(1 << 16).open().unwrap().arena::<Tlsf>().unwrap();
    let _b: Vec<_> = (0..20).map(|i| arena.alloc_slice(i * 50, 1u8).unwrap()).collect();
    let s = ShmemBox::into_arc(arena.alloc(5u64).unwrap());
    let _ = arena.publish("the <number>\x1b[31m", &s);
    if let Err(_) = arena.publish_pinned("motd", &ShmemBox::into_arc(arena.alloc_str("good").unwrap())) {}
    ShmemBox::leak(arena.alloc([0u32; 9]).unwrap());
    println!("ready");
    if a.len() > 3 {
        loop {
            let x = arena.alloc_slice(100, 0u8).unwrap();
            drop(x);
            let y = arena.alloc(7u64).unwrap();
            drop(y);
        }
    }
    std::thread::sleep(std::time::Duration::from_secs(1000));
}
