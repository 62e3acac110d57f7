//! libFuzzer over the target that `MAINSTEM_FUZZ_TARGET` names. `cargo xtask fuzz` builds and calls it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mainstem_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn chosen() -> &'static Target {
    let name = std::env::var("MAINSTEM_FUZZ_TARGET").expect("MAINSTEM_FUZZ_TARGET names a target");
    mainstem_fuzz::find(&name).expect("there is a target of that name")
}

fuzz_target!(|data: &[u8]| {
    TARGET.get_or_init(chosen).run(data);
});
