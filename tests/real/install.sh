#!/usr/bin/env bash
# Installs the Debian packages that tests need, about a minute from bare: SLURM, Ceph's S3 gateway, network
# namespaces, sshd, openssl, a browser, file systems in user space, a clock that can be set for a process, compilers for C and
# C++, jq, the images of Fashion-MNIST (31 MB), and promtool. Starts no service. Run as root: tests/real/install.sh
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

packages=(
  munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins bc
  radosgw ceph-mon ceph-osd ceph-common
  iproute2 openssh-server openssl
  chromium
  faketime bindfs exfat-fuse exfatprogs fusefat dosfstools
  gcc g++ libc6-dev jq
  dataset-fashion-mnist
)
missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
command -v promtool >/dev/null || fetch_promtool=yes
[[ ${#missing[@]} -eq 0 && -z ${fetch_promtool:-} ]] && exit 0

apt-get update --quiet --quiet
if [[ ${#missing[@]} -gt 0 ]]; then
  # The tests start their own daemons, with their own ports and files; Debian would start each package's as well.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"
fi
if [[ -n ${fetch_promtool:-} ]]; then
  # The package would bring a server and a user for it; one program of it is needed.
  unpacked=$(mktemp --directory)
  (cd "$unpacked" && apt-get -o APT::Sandbox::User=root download --quiet --quiet prometheus && dpkg-deb --extract prometheus_*.deb .)
  install "$unpacked/usr/bin/promtool" /usr/local/bin/promtool
  rm -rf "$unpacked"
fi
