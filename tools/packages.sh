# Sourced by tools/setup: what the scripts, the agent and its tests need of the system.

# One per line: package, then what proves that it is not needed (a program, or one of some files, whoever brought it).
# Without a proof the package itself must be installed.
debian_needs() {
    case $(dpkg --print-architecture) in
        arm64)
            echo qemu-system-arm qemu-system-aarch64
            echo qemu-efi-aarch64
            ;;
        *)
            echo qemu-system-x86 qemu-system-x86_64
            echo ovmf
            ;;
    esac
    cat <<'NEEDS'
busybox-static
ca-certificates
dnsmasq-base dnsmasq
docker-registry docker-registry
docker.io dockerd
dosfstools mkfs.vfat
dropbear-bin
e2fsprogs mke2fs
iproute2 ip
iptables iptables
mtools mcopy
openssh-client ssh
openssh-server /usr/sbin/sshd
sudo sudo
qemu-utils qemu-img
virtiofsd /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd
xfsprogs mkfs.xfs
zsh zsh
NEEDS
    if [ -z "$PYTHON_FOUND" ]; then
        # Ubuntu 22.04 has 3.11 beside an older python3.
        if command -v python3 >/dev/null && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            printf '%s\n' python3.11 python3.11-venv
        else
            printf '%s\n' python3 python3-venv
        fi
    fi
}

# Inside another package in some releases (virtiofsd in Debian 12's qemu-system-common).
ONLY_WHERE_OFFERED="virtiofsd"

# Units that Debian would start and enable along with a package. A machine for tests needs none of them: the scripts
# start what they need, on ports of their own.
units_of() {
    case $1 in
        docker.io) echo docker.service docker.socket containerd.service ;;
        docker-registry) echo docker-registry.service ;;
        openssh-server) echo ssh.service ssh.socket ;;
    esac
}

install_system_packages() {
    case $(uname -s) in
        Darwin) install_with_brew ;;
        Linux)
            if command -v apt-get >/dev/null; then
                install_with_apt
            else
                say "no apt-get here: see debian_needs in tools/packages.sh and install the counterparts yourself"
            fi
            ;;
        *) die "$(uname -s) is neither Linux nor macOS" ;;
    esac
}

# --- Debian and Ubuntu -------------------------------------------------------------------------------------------

is_installed() { [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_debian_packages() {
    local package proof proofs found
    debian_needs | while read -r package proofs; do
        found=
        for proof in $proofs; do
            command -v "$proof" >/dev/null && found=yes
        done
        [ -n "$found" ] || is_installed "$package" || echo "$package"
    done
}

# Package lists must be there even when no package is missing: the guest image is made of packages that apt downloads.
has_package_lists() { [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get --quiet=2 --option DPkg::Lock::Timeout=600 --option Dpkg::Use-Pty=0 "$@"
}

install_with_apt() {
    local missing
    missing=$(missing_debian_packages | tr '\n' ' ')
    if [ -z "$missing" ] && has_package_lists; then
        return
    fi
    say "will install with apt: ${missing:-nothing, only fetch the package lists}"
    say "this takes 1 to 3 min; no service is started"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "neither root nor sudo: let an administrator run
    apt-get update && apt-get install --no-install-recommends $missing"
    apt_get update
    local package wanted=
    for package in $missing; do
        if [[ " $ONLY_WHERE_OFFERED " == *" $package "* ]] && ! apt-cache show "$package" >/dev/null 2>&1; then
            continue
        fi
        wanted="$wanted $package"
    done
    [ -z "$wanted" ] || install_without_services "$wanted"
    missing=$(missing_debian_packages | tr '\n' ' ')
    [ -z "$missing" ] || die "apt did not bring $missing"
}

# While the packages are unpacked a policy tells Debian's invoke-rc.d to start nothing (policy-rc.d is its interface);
# a policy that is there already is kept. Services that run are not touched: only units of new packages are disabled.
install_without_services() {
    local policy=/usr/sbin/policy-rc.d log=.run/apt.log package unit status=0
    local made_policy=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        made_policy=yes
        trap 'as_root rm -f '$policy EXIT
        as_root chmod 755 $policy
    fi
    # shellcheck disable=SC2086  # words on purpose
    apt_get install --yes --no-install-recommends $1 >$log 2>&1 </dev/null || status=$?
    if [ -n "$made_policy" ]; then
        as_root rm -f $policy
        trap - EXIT
    fi
    [ $status = 0 ] || die "apt-get install failed, the end of $log says:
$(tail -n 20 $log)"
    if [ -d /run/systemd/system ]; then
        for package in $1; do
            for unit in $(units_of "$package"); do
                as_root systemctl disable --quiet "$unit" 2>/dev/null || true
            done
        done
    fi
}

# --- macOS -------------------------------------------------------------------------------------------------------

# Docker Desktop, OrbStack or colima serve the side-cars; any of them does, so none is chosen here.
install_with_brew() {
    local entry missing=
    for entry in go:go qemu:qemu-system-aarch64 ${PYTHON_FOUND:-python@3.13:python3.13}; do
        command -v "${entry#*:}" >/dev/null || missing="$missing ${entry%%:*}"
    done
    [ -n "$missing" ] || return 0
    command -v brew >/dev/null || die "needs Homebrew to install$missing"
    say "will install with brew:$missing; this takes 1 to 5 min"
    # shellcheck disable=SC2086  # words on purpose
    brew install --quiet $missing
}
