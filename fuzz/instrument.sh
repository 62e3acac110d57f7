#!/bin/sh
# A RUSTC_WORKSPACE_WRAPPER: compiles the crates of this workspace with the counters that libFuzzer reads, on the pinned
# toolchain. Dependencies are not touched, so that they are the ones of every other build.
set -eu
case " $* " in
# What only tests use would be explored like the parsers; a build script has no libFuzzer to link to.
*" mainstem_fuzz "* | *" fuzz "* | *" mainstem_testkit "* | *" build_script_build "*) exec "$@" ;;
esac
exec "$@" -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
