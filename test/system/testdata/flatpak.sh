# Makes and installs org.example.Ask, a Flatpak that runs what it is told: busybox alone.
set -eu
# Its sandboxes bound their own user namespaces; in a container nobody may write there.
mount --bind /proc/sys/user /proc/sys/user
mount -o remount,bind,rw /proc/sys/user
mkdir -p /root/flatpak/runtime/files/bin /root/flatpak/app/files/bin /root/flatpak/app/export
cd /root/flatpak
cp /bin/busybox runtime/files/bin
for command in sh cat true sleep nc nslookup; do
	ln -s busybox "runtime/files/bin/$command"
done
cat >runtime/metadata <<'END'
[Runtime]
name=org.example.Platform
runtime=org.example.Platform/x86_64/1
sdk=org.example.Platform/x86_64/1
END
printf '#!/bin/sh\nexec "$@"\n' >app/files/bin/ask
chmod 755 app/files/bin/ask
cat >app/metadata <<'END'
[Application]
name=org.example.Ask
runtime=org.example.Platform/x86_64/1
sdk=org.example.Platform/x86_64/1
command=ask

[Context]
shared=network;
END
flatpak build-export --disable-sandbox --runtime --files=files repo runtime 1
flatpak build-export --disable-sandbox repo app 1
flatpak remote-add --system --no-gpg-verify lab /root/flatpak/repo
flatpak install --system --assumeyes --noninteractive lab org.example.Ask
