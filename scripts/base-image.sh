#!/usr/bin/env bash
# Makes a base image for deploy/Dockerfile where no registry can be reached:
# Debian with Python, from the Debian mirror that this machine's apt uses.
#
#   scripts/base-image.sh raftkv-base:bookworm
#   docker build -f deploy/Dockerfile --build-arg BASE=raftkv-base:bookworm .
#
# Needs root, mmdebstrap and a Docker engine. RELEASE is Debian's release, bookworm.
set -euo pipefail

tag=${1:?usage: base-image.sh TAG}
release=${RELEASE:-bookworm}
command -v mmdebstrap >/dev/null || {
  echo "mmdebstrap is missing: apt-get install --no-install-recommends mmdebstrap" >&2
  exit 1
}

# What nobody reads in a container stays out: 225 MB become 130.
mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io \
  --include=ca-certificates,python3,python3-venv \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
  "$release" |
  docker import --change 'CMD ["python3"]' --change 'LABEL raftkv.made-by=base-image' - "$tag" >/dev/null
echo "made $tag"
