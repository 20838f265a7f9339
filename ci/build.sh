#!/usr/bin/env bash
# Installs what the tutorial needs: `ci/build.sh`, or `ci/build.sh dev` for tests too.
# Where to, it finds out: an active environment, the Python of an Anyscale Workspace or
# of a container that brings Ray, else .venv in this folder, made with $PYTHON if set.
# Ray and torch that are already there are kept. TORCH_INDEX_URL adds a package index;
# without it, PyTorch's own is added for its CPU build on Linux without an NVIDIA GPU.
set -exo pipefail
{ set +x; } 2>/dev/null # finding the target is not worth a trace

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode="${1:-run}"
files=(requirements.txt)
[ "$mode" != dev ] || files+=(requirements-dev.txt)
image=

fail() {
  echo "ci/build.sh: $1" >&2
  exit 1
}
version_of() { "$1" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$2" 2>/dev/null; }
runs() { "$1" -c 'import sys' >/dev/null 2>&1; }
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }
managed() { # by the system's package manager (PEP 668)
  "$1" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(sysconfig.get_path("stdlib") + "/EXTERNALLY-MANAGED"))' 2>/dev/null
}
in_image() {
  [ -n "$ANYSCALE_CLUSTER_ID$KUBERNETES_SERVICE_HOST" ] || [ -e /.dockerenv ] || [ -e /run/.containerenv ]
}
no_gpu() {
  [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! compgen -G "/dev/nvidia*" >/dev/null && ! [ -e /proc/driver/nvidia ]
}
answers() { # within five seconds, the question for its address included
  timeout 5 "$python" -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=5)' "$1" 2>/dev/null
}
find_target() { # sets python and prefix, the folder of the environment
  local there
  for prefix in "$VIRTUAL_ENV" "$CONDA_PREFIX" "$PWD/.venv"; do
    python="$prefix/bin/python"
    if [ -n "$prefix" ] && [ -x "$python" ] && runs "$python"; then return; fi
  done
  there="$(command -v "${PYTHON:-python3}" || command -v python || true)"
  if in_image && [ -n "$there" ] && version_of "$there" ray >/dev/null && ! managed "$there"; then
    image="$there" python="$there"
    prefix="$("$python" -c 'import sys; print(sys.prefix)')"
  fi
}
plain() { [ "$(printf %q "$1")" = "$1" ]; }
rename_python() { # Ray 2.60 gives its path to a shell as it is (RuntimeEnvContext.exec_worker)
  local link
  link="${XDG_CACHE_HOME:-$HOME/.cache}/doggos/python-$(cksum <<<"$prefix" | cut -d' ' -f1)"
  if plain "$link" && mkdir -p "${link%/*}" && ln -sfn "$prefix" "$link"; then
    python="$link/bin/python"
  else
    echo "Ray can't train with a Python in $prefix: move it to a path without spaces." >&2
  fi
}
make_venv() {
  local base bases=("$PYTHON")
  [ -n "$PYTHON" ] || bases=(python3.11 python3.12 python3.13 python3)
  for base in "${bases[@]}"; do
    ! supported "$base" || break
  done
  supported "$base" || fail "Python 3.11, 3.12 or 3.13 is needed and ${PYTHON:-none of them} was found: name one with PYTHON=/path/to/python3.11."
  "$base" -m venv --without-pip "$prefix" || fail "$base can't make an environment: install its venv module (Debian, Ubuntu: apt-get install python3-venv)."
}
add_pip() { # where Python can't by itself, another pip can
  "$python" -m ensurepip --default-pip || "${PYTHON:-python3}" -m pip --python "$python" install pip
} >/dev/null 2>&1

find_target
runs "$python" || make_venv
supported "$python" || fail "$python is $("$python" -V 2>&1), and 3.11 to 3.13 is needed: activate an environment that has it, or name one with PYTHON=/path/to/python3.11."
plain "$prefix" || rename_python
mkdir -p build
echo "$python" >build/.python
stamp="$prefix/.doggos-installed"
wanted="$(cat requirements*.txt constraints.txt pyproject.toml <(echo "$PWD") | cksum)"
if [ -e "$stamp" ]; then
  read -r done_mode done_sum <"$stamp"
  if [ "$done_sum" = "$wanted" ] && { [ "$done_mode" = dev ] || [ "$done_mode" = "$mode" ]; }; then exit 0; fi
fi

# What an image or an environment of the user's brings is kept: its version is required.
cat "${files[@]}" >build/requirements.txt
cp constraints.txt build/constraints.txt
if ! [ "$prefix" -ef .venv ]; then
  for name in ray torch; do
    have="$(version_of "$python" $name)" || continue
    want="$(sed -nE "s/^$name(\[[^]]*\])?==([^ ]+).*/\2/p" requirements.txt)"
    sed -E "s/^($name(\[[^]]*\])?)==.*/\1==$have/" build/requirements.txt >build/requirements.new
    mv build/requirements.new build/requirements.txt
    if [ "${have%%+*}" = "$want" ]; then
      sed -E "s/^$name==.*/$name==$have/" build/constraints.txt >build/constraints.new
      mv build/constraints.new build/constraints.txt
    else
      echo "$name $have is installed in $prefix and is kept, though the tutorial is tested with $want: if something fails, use an image or environment with $name==$want, or none to get a .venv."
      : >build/constraints.none # the rest was resolved for the tested versions
    fi
  done
  [ ! -e build/constraints.none ] || mv build/constraints.none build/constraints.txt
fi
"$python" -m pip --version >/dev/null 2>&1 || add_pip || fail "$python has no pip and can't get one: install Python's venv package (Debian, Ubuntu: apt-get install python3-venv), or pip."

# Of 2.13.0 and 2.13.0+cpu, pip takes the second for torch==2.13.0: a local version is
# the newer one. What there is already stays, and an image's other nodes may have GPUs.
have="$(version_of "$python" torch || true)"
if [ -z "$TORCH_INDEX_URL$PIP_NO_INDEX$image" ] && ! grep -qxF -e "torch==$have" -e "torch==${have%%+*}" build/requirements.txt && no_gpu; then
  cpu=https://download.pytorch.org/whl/cpu
  if answers "$cpu/torch/"; then
    echo "No NVIDIA GPU here: torch comes from $cpu, without CUDA; TORCH_INDEX_URL names another index."
    TORCH_INDEX_URL=$cpu
  fi
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
trap '{ code=$?; set +x; } 2>/dev/null; [ $code != 0 ] || echo "$mode $wanted" >"$stamp" || true' EXIT
set -x

# Install Python dependencies
"$python" -m pip install -r build/requirements.txt -c build/constraints.txt \
  ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"}
"$python" -m pip install --no-deps --editable .
