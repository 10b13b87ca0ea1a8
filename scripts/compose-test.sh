#!/usr/bin/env bash
# Builds the image, runs deploy/compose.yaml through faults and shows that nothing acknowledged is
# lost; then a short run of jepsen-lite on such a cluster.
#
#   scripts/compose-test.sh            or: make compose-test
#
# PYTHON  with raftkv's packages in it           (.venv/bin/python)
# BASE    image to build on                      (python:3.11-slim-bookworm)
# SECONDS_OF_FAULTS  of the run of jepsen-lite   (20; 0 leaves it out)
#
# Where no Docker engine answers and this is root, an engine of its own is started, with everything
# in a temporary directory and no rule of the firewall touched, and ended afterwards. Where none can
# run it says SKIPPED and why, and succeeds. Nothing is left behind but the base image, if an engine
# was there already.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
base=${BASE:-python:3.11-slim-bookworm}
faults=${SECONDS_OF_FAULTS:-20}
own_base=raftkv-base:bookworm
project=raftkvtest$$
image=raftkv:test-$$
scratch=
engine=
began=$SECONDS

say() { echo "[$(printf %4d $((SECONDS - began))) s] $*"; }
skip() {
  echo "SKIPPED: no Docker engine can run here: $*"
  exit 0
}
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

clean_up() {
  status=$?
  trap - EXIT
  if [ -n "$scratch" ]; then
    compose -f deploy/compose.yaml -p "$project" down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [ -n "$engine" ]; then
      kill "$engine" 2>/dev/null && wait "$engine" 2>/dev/null || true
      umount "$scratch"/exec/netns/* 2>/dev/null || true
    else
      docker image rm "$image" >/dev/null 2>&1 || true
      docker image prune --force --filter label=raftkv.stage=build >/dev/null 2>&1 || true
    fi
    rm -rf "$scratch"
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# --- an engine -----------------------------------------------------------------

start_engine() {
  [ "$(id -u)" -eq 0 ] || skip "none answers, and only root could start one"
  command -v dockerd >/dev/null || skip "none answers, and dockerd is not installed"
  say "no engine answers: starting one in $scratch"
  export DOCKER_HOST=unix://$scratch/socket
  # No bridge and no rules: containers reach each other, and this machine reaches their ports
  # through Docker's proxy. The image is built without a network.
  dockerd --host "$DOCKER_HOST" --data-root "$scratch/data" --exec-root "$scratch/exec" \
    --pidfile "$scratch/pid" --iptables=false --ip-forward=false --bridge=none \
    >"$scratch/dockerd.log" 2>&1 &
  engine=$!
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$engine" 2>/dev/null || break
    sleep 0.2
  done
  skip "dockerd did not start: $(tail -n 1 "$scratch/dockerd.log" | cut -c 1-300)"
}

command -v docker >/dev/null || skip "docker is not installed"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
  skip "neither docker compose nor docker-compose is installed"
scratch=$(mktemp -d /tmp/raftkv-compose-XXXXXX)
timeout 60 docker info >/dev/null 2>&1 || start_engine
say "engine: Docker $(docker version --format '{{.Server.Version}}')"

# --- the image -----------------------------------------------------------------

if ! docker image inspect "$base" >/dev/null 2>&1 &&
  ! timeout 120 docker pull --quiet "$base" >/dev/null 2>&1; then
  docker image inspect "$own_base" >/dev/null 2>&1 || {
    say "$base cannot be had here: making $own_base"
    timeout 600 scripts/base-image.sh "$own_base" || fail "there is no base image"
  }
  base=$own_base
fi
say "base image: $base"

# Wheels are fetched out here, where pip is set up, and what is built is what lies here.
context=$scratch/context
mkdir -p "$context/deploy"
cp -r raftkv pyproject.toml README.md LICENSE .dockerignore "$context"
cp -r deploy/Dockerfile deploy/docker "$context/deploy"
version=$(docker run --rm --network none "$base" \
  python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
say "wheels for Python $version"
"$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
  --python-version "$version" --dest "$context/deploy/docker/wheels" \
  "$context" 'hatchling>=1.25' 2>"$scratch/pip.log" || {
  cat "$scratch/pip.log" >&2
  fail "the wheels cannot be had"
}
timeout 600 docker build --quiet --network none --build-arg BASE="$base" --tag "$image" \
  --file "$context/deploy/Dockerfile" "$context" >"$scratch/build.log" 2>&1 || {
  tail -n 30 "$scratch/build.log" >&2
  fail "the image cannot be built"
}
say "image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%d", $1 / 1e6}') MB"

# --- the cluster ----------------------------------------------------------------

export RAFTKV_IMAGE=$image PYTHONPATH=.:jepsen-lite
read -r NODE1_PORT NODE2_PORT NODE3_PORT < <("$python" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in held))')
export NODE1_PORT NODE2_PORT NODE3_PORT
say "the cluster"
timeout 600 "$python" -m tests.deploy.compose_scenario --file deploy/compose.yaml \
  --project "$project" || fail "the cluster does not do what it promises"
if [ "$faults" -gt 0 ]; then
  say "jepsen-lite: kill, pause and partition for $faults s"
  timeout 400 "$python" -m jepsen_lite run --compose deploy/compose.yaml --project "$project" \
    --workload register --nemesis kill,pause,partition --time "$faults" --seed 7 \
    --store "$scratch/runs" || fail "jepsen-lite says no"
fi
say "everything held"
