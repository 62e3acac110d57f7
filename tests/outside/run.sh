#!/usr/bin/env bash
# The tests against the outside world: real clients against the real binary. `cargo xtask setup` has to have run;
# arguments go to pytest (tests/outside/run.sh -k kafkajs). MAINSTEM_BIN names another binary than target/debug/mainstem.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=target/outside/venv/bin/python
if [[ ! -x $python ]]; then
    echo "$python is missing: run cargo xtask setup" >&2
    exit 1
fi
if [[ -z ${MAINSTEM_BIN:-} ]]; then
    cargo build --quiet --locked -p mainstem-server --bin mainstem
fi
export PYTHONDONTWRITEBYTECODE=1
exec "$python" -m pytest -c tests/outside/pytest.ini --rootdir tests/outside "$@" tests/outside
