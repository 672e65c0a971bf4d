#![no_main]
bascule_protocols_fuzz::target!("http");
