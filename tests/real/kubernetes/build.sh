#!/usr/bin/env bash
# Builds Kubernetes' API server and its controllers (1.20.2) from Debian 12's source package, which carries all that it
# needs, and installs what else tests/real/test_kubernetes.py runs; Debian has no binaries of these two. A quarter of an
# hour on two cores, 4 GB while it builds, 220 MB in the end. Run as root: tests/real/kubernetes/build.sh FOLDER
set -euo pipefail
folder=$(realpath --canonicalize-missing "${1:?name a folder for the programs}")
export DEBIAN_FRONTEND=noninteractive

packages=(bubblewrap dpkg-dev etcd-server golang-github-modern-go-reflect2-dev golang-go iproute2 openssl)
missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if [[ ${#missing[@]} -gt 0 ]]; then
  # The tests start etcd themselves; Debian would start one as well.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  apt-get update --quiet --quiet
  apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"
fi
[[ -x $folder/kube-apiserver && -x $folder/kube-controller-manager ]] && exit 0

mkdir -p "$folder"
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Where Debian's packages come from, their sources lie too; the machine's own list need not name them.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | grep --max-count=1 --invert-match security)
mkdir -p apt/lists/partial
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >apt/sources
options=(-o "Dir::Etc::sourcelist=$work/apt/sources" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/apt/lists")
options+=(-o APT::Sandbox::User=root)
apt-get "${options[@]}" update --quiet --quiet
apt-get "${options[@]}" source --quiet --quiet kubernetes

export GOPATH=$work/go GOCACHE=$work/cache GO111MODULE=off GOFLAGS= GOPROXY=off CGO_ENABLED=0
mkdir -p go/src/k8s.io
ln -s "$work"/kubernetes-*/ go/src/k8s.io/kubernetes
cd go/src/k8s.io/kubernetes
# The copy of this library that comes along crashes where it is built with Go 1.18 and later.
rm vendor/github.com/modern-go/reflect2/*.go vendor/github.com/modern-go/reflect2/*.s
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} vendor/github.com/modern-go/reflect2/
# What the API server says of its own types is not in the package; it is made from these.
go build -o "$work/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
types=$(grep --recursive --files-with-matches --include='*.go' '+k8s:openapi-gen=true' pkg staging/src |
  grep --invert-match --extended-regexp '/test|code-generator|_examples|sample-' | xargs --max-args=1 dirname | sort --unique |
  sed 's#^staging/src/#k8s.io/kubernetes/vendor/#; s#^pkg/#k8s.io/kubernetes/pkg/#' | paste --serial --delimiters=,)
"$work/openapi-gen" --logtostderr --input-dirs "$types" --output-package k8s.io/kubernetes/pkg/generated/openapi \
  --output-file-base zz_generated.openapi --go-header-file hack/boilerplate/boilerplate.generatego.txt --report-filename "$work/report"
version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
for program in kube-apiserver kube-controller-manager; do
  nice go build -p 2 -ldflags "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" \
    -o "$folder/$program" "k8s.io/kubernetes/cmd/$program"
done
