#!/usr/bin/env bash
# Generates the Python code of protos/raftkv/pb/*.proto.
#
#   scripts/generate-protos.sh PYTHON OUT    writes OUT/raftkv/pb/*_pb2*.py and .pyi
#
# `make proto` writes into the tree itself; the check that compares the committed
# code with a fresh run writes into a temporary directory.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?which python}
out=${2:?where to}
# protoc finds the mypy plugins by name, next to the interpreter.
PATH="$("$python" -c 'import sys; print(sys.prefix)')/bin:$PATH"
mkdir -p "$out"
"$python" -m grpc_tools.protoc -I protos \
  --python_out="$out" --mypy_out=quiet:"$out" protos/raftkv/pb/*.proto
# Files without a service would get an empty module from the gRPC plugin.
mapfile -t services < <(grep -l '^service ' protos/raftkv/pb/*.proto)
"$python" -m grpc_tools.protoc -I protos \
  --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" "${services[@]}"
