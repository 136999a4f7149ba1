#!/usr/bin/env bash
# Builds the CUDA backend on this machine, tests it on its GPU, measures it, writes one report.
#
#   tests/bench/gpu.sh [STAGE...]     all of them in order, or those named; each takes under 10 minutes
#
#   build      compile the extension for this machine's GPU (nvcc, a CUDA build of torch)
#   ops        the op tests on the GPU
#   model      the model against transformers, and the engine's bitwise suites, on the GPU
#   sanitize   compute-sanitizer (memcheck, racecheck, synccheck, initcheck) on small shapes
#   measure    each op's share of the measured bandwidth or matrix rate
#   mini, medium              prefill and decode with random weights in Phi-3's shapes
#   free       Phi-3-mini again, any GEMM kernel for any batch: what determinism costs
#   peer-mini, peer-medium    transformers: SDPA, static cache, compiled
#   report     tests/bench/results/gpu.md and gpu.json
#
# PYTHON: the interpreter with torch, python3 unless set. OUT: where stages leave what they found,
# build/gpu unless set; stages of one report share it. WHEELS: a folder of wheels of what the
# interpreter lacks of the list below; `build` unpacks them into OUT/site, and every stage finds
# them there. Nothing is installed otherwise, and no setting of the GPU is touched.
#
# Needed beside torch, numpy and nvcc, as pyproject.toml has them:
#   build      cmake, ninja, pybind11; for an sm_90 GPU nvidia-cutlass
#   ops        pytest, pytest-asyncio, pytest-timeout, transformers
#   model      those, msgspec, safetensors, tokenizers, jinja2
#   mini, medium, free        msgspec
#   peer-mini, peer-medium    transformers
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
export PYTHONPATH=$PWD:$OUT/site PYTHONUNBUFFERED=1 PHI3SVC_TEST_DEVICE=cuda

unpack_wheels() {
  [ -n "${WHEELS:-}" ] || return 0
  "$PYTHON" -m pip install -q --disable-pip-version-check --no-index --no-deps --upgrade \
    --target "$OUT/site" "$WHEELS"/*.whl
}

build() {
  local arch
  unpack_wheels
  arch=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  [ "$arch" != 90 ] || arch=90a
  cmake -S . -B build/gpu-extension -G Ninja -DCMAKE_BUILD_TYPE=Release -DPHI3SVC_CUDA=on \
    -DPHI3SVC_CUDA_ARCHITECTURES="$arch-real" \
    -DPython_EXECUTABLE="$(command -v "$PYTHON")" \
    -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)"
  cmake --build build/gpu-extension
  cmake --install build/gpu-extension --prefix .
  "$PYTHON" - "$OUT/machine.json" <<'PY'
import datetime, json, platform, subprocess, sys
import torch
from phi3svc import ops
driver = subprocess.run(
    ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
    capture_output=True, text=True, check=True,
).stdout.strip()
machine = {
    "gpu": torch.cuda.get_device_name(),
    "date": datetime.date.today().isoformat(),
    "versions": f"driver {driver}, CUDA {torch.version.cuda}, torch {torch.__version__}, "
                f"Python {platform.python_version()}, kernels for {ops.build_info()['cuda']}",
}
open(sys.argv[1], "w").write(json.dumps(machine, indent=1))
print(machine)
PY
}

ops() { tests_of ops; }
model() { tests_of model; }
tests_of() {
  local paths
  read -ra paths <<<"$("$PYTHON" tests/cuda_suites.py "$1")"
  "$PYTHON" -m pytest -q -p no:cacheprovider "${paths[@]}"
}

sanitize() {
  local tool
  for tool in memcheck racecheck synccheck initcheck; do
    echo "==> compute-sanitizer --tool $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      --kernel-name kernel_substring=phi3 \
      "$PYTHON" -m tests.bench.gpu.measure_ops --shape tiny --out "$OUT/sanitize.json"
  done
  rm -f "$OUT/sanitize.json"
}

measure() { "$PYTHON" -m tests.bench.gpu.measure_ops --shape mini --out "$OUT/ops-mini.json"; }

mini() { ours mini; }
medium() { ours medium; }
ours() {
  local format
  for format in bfloat16 fp8; do
    "$PYTHON" -m tests.bench.gpu.generate --shape "$1" --format "$format" \
      --out "$OUT/run-$1-$format.json"
  done
}

free() {
  "$PYTHON" -m tests.bench.gpu.generate --shape mini --policy free --out "$OUT/run-mini-free.json"
}

peer-mini() { "$PYTHON" -m tests.bench.gpu.peer --shape mini --out "$OUT/run-mini-peer.json"; }
peer-medium() { "$PYTHON" -m tests.bench.gpu.peer --shape medium --out "$OUT/run-medium-peer.json"; }

report() { "$PYTHON" -m tests.bench.gpu.report "$OUT" tests/bench/results; }

STAGES=(build ops model sanitize measure mini medium free peer-mini peer-medium report)
[ $# -gt 0 ] || set -- "${STAGES[@]}"
for stage; do
  case " ${STAGES[*]} " in
    *" $stage "*) ;;
    *) echo "unknown stage $stage; stages: ${STAGES[*]}" >&2; exit 2 ;;
  esac
done
for stage; do
  echo "==> $stage"
  "$stage"
done
