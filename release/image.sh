#!/bin/sh
# image.sh DIRECTORY EXECUTABLE: the image's root directory. Needs root, for owners, and Debian's busybox-static.
set -eu
root=$1
install -d -m 0755 "$root/bin" "$root/etc/ssl/certs"
install -m 0755 "$2" "$root/bin/kine"
# A shell with cp and chmod is what Kamaji's init container runs; wget is the health check's.
install -m 0755 "$(command -v busybox)" "$root/bin/busybox"
for name in sh cp chmod wget; do ln -s busybox "$root/bin/$name"; done
install -d -o 65534 -g 65534 -m 0755 "$root/db"
install -d -m 1777 "$root/tmp" # where the executable unpacks
printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > "$root/etc/passwd"
printf 'root:x:0:\nnobody:x:65534:\n' > "$root/etc/group"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
