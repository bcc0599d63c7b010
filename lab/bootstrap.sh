#!/usr/bin/env bash
# Prepare this machine: Debian packages, the locked Python environment and this package in it.
# Safe to run again; does nothing that is already done. Usage: lab/bootstrap.sh [packages ...]
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "setup: $*" >&2; exit 1; }

. /etc/os-release
[ "${ID:-}" = debian ] && { [ "${VERSION_ID:-0}" = 12 ] || [ "${VERSION_ID:-0}" = 13 ]; } ||
  fail "this is ${PRETTY_NAME:-an unknown system}; the lab needs Debian 12 or 13. The playbooks themselves run anywhere: see docs/how-to.md."
[ "$(id -u)" = 0 ] || fail "the lab boots hosts and needs root: run it again with sudo."

missing=()
for package in "$@"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing ${missing[*]}"
  # A PostgreSQL server is wanted for its programs (tests start private clusters); no cluster of its own is made.
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    install -d /etc/postgresql-common
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

python=""
# Debian's own first: it is built with optimisation, which others in PATH may lack, and plays take a fifth longer there.
for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "no Python 3.11 to 3.13 found: install python3."

stamp=$(cat requirements/control.txt pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.stationkeeper-setup 2>/dev/null)" != "$stamp" ]; then
  say "building the Python environment in .venv ($("$python" --version))"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --require-hashes -r requirements/control.txt
  .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
  echo "$stamp" > .venv/.stationkeeper-setup
fi
# So that modules on localhost are not compiled anew for each task.
libraries=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install -m 0644 -t "$libraries" lab/labkit/host/lab_code_cache.py
echo 'import lab_code_cache' > "$libraries/lab_code_cache.pth"
