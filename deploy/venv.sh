#!/usr/bin/env bash
# Creates the virtual environment `.venv` and installs one of the project's extras: deploy/venv.sh EXTRA
set -euo pipefail
cd "$(dirname "$0")/.."

extra=${1:?which extra? demo or test}
python=${PYTHON:-python3}
uv=.venv/bin/uv
torch_choice=.cache/torch # `cpu` or `index`; kept, because trying an unreachable index takes seconds

make_venv() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "millrace needs Python 3.11 or newer; $python is $("$python" --version): set PYTHON=..." >&2; exit 1; }
    # Debian has this module of Python in a separate package.
    "$python" -c 'import ensurepip' 2>/dev/null || deploy/services/apt.sh python3-venv
    "$python" -m venv .venv
}

choose_torch() {
    if nvidia-smi >/dev/null 2>&1; then
        echo index
    elif UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 30 "$uv" pip install --quiet --dry-run --no-deps \
        --torch-backend cpu --constraint constraints.txt torch 2>/dev/null; then
        echo cpu
    else
        echo index
    fi
}

[[ -x .venv/bin/python ]] || make_venv
[[ -x $uv ]] || .venv/bin/python -m pip install --quiet 'uv>=0.9'

mkdir -p .cache
[[ -s $torch_choice ]] || choose_torch >$torch_choice
if [[ $(<$torch_choice) == cpu ]]; then
    echo "torch: the CPU build, from PyTorch's own index"
    backend=(--torch-backend cpu)
else
    echo "torch: the build of the package index (with CUDA on Linux: 3 GB to download)"
    backend=()
fi
"$uv" pip install --quiet ${backend[@]+"${backend[@]}"} --constraint constraints.txt --editable ".[$extra]"
touch ".venv/$extra.stamp"
