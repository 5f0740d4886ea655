# Sourced by the scripts here: stand in the checkout, with the programs of .venv first and Debian's /sbin within reach.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PATH="$PWD/.venv/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
