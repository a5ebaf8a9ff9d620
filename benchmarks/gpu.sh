#!/usr/bin/env bash
# Test and time bigdecon on this machine's GPU, in under ten minutes:
#
#     benchmarks/gpu.sh OUTDIR
#
# The tests leave the GPU less memory than blocks and training steps take, and let one process lose it for good.
# OUTDIR receives gpu.json (benchmarks), tests.xml and tests.txt. Without a GPU it says so and ends with 0.
# PYTHON names another interpreter; the default is .venv/bin/python where there is one, else python3.
set -euo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
if [ -x .venv/bin/python ]; then default=.venv/bin/python; else default=python3; fi
python=${PYTHON:-$default}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  exec timeout 60 "$python" benchmarks/gpu.py "$out/gpu.json"
fi
failed=0
# A machine may lack pytest, or a package that only other tests need; the benchmarks run all the same.
timeout 270 "$python" -m pytest -m gpu tests/test_gpu.py --junitxml "$out/tests.xml" 2>&1 | tee "$out/tests.txt" || failed=1
timeout 270 "$python" benchmarks/gpu.py "$out/gpu.json" || failed=1
exit "$failed"
