#!/usr/bin/env bash
# Sees to it that the programs which tests use are there: curl and h2load as
# clients, pgrep for the README's tour, Prometheus for the metrics, HAProxy and
# NGINX in front of members. Installs their Debian packages when run as root, else
# says what to do. None of them is started, now or with the machine.
set -euo pipefail

export PATH="$PATH:/usr/local/sbin:/usr/sbin" # an ordinary user's may lack these
passes_streams() {
  local built
  built=$(nginx -V 2>&1)
  [[ "$built" =~ --with-stream([[:space:]]|$) ]] ||
    compgen -G '/etc/nginx/modules-enabled/*stream*.conf' >/dev/null
}

missing=()
command -v curl >/dev/null || missing+=(curl)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v pgrep >/dev/null || missing+=(procps)
command -v promtool >/dev/null || missing+=(prometheus)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v nginx >/dev/null || missing+=(nginx)
{ command -v nginx >/dev/null && passes_streams; } || missing+=(libnginx-mod-stream)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need these Debian packages: ${missing[*]}" >&2
  echo "Install them with: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]} for the tests"
export DEBIAN_FRONTEND=noninteractive
export SYSTEMD_OFFLINE=1
log=$(mktemp)
made=("$log")
trap 'rm -f "${made[@]}"' EXIT
# Without systemd the packages would start their services by themselves.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  made+=("$policy")
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
if ! { apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } \
  >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
for package in "${missing[@]}"; do # most have no service
  systemctl --quiet disable "$package" >/dev/null 2>&1 || true
done
