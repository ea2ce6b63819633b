package trusted

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hallpass/testsuite/process"
)

// An access control list may let anybody in, whatever the group is.
func TestPrivateGroupWithAList(t *testing.T) {
	dir, path := place(t)
	must(t, os.Chmod(dir, 0o775))
	if listed(dir) {
		process.Unable(t, "this file system has no access control lists of the kind that is seen")
	}
	uid, gid := owned(t, dir)
	files := t.TempDir()
	j := judge{uid: uid, passwd: filepath.Join(files, "passwd"), group: filepath.Join(files, "group")}
	must(t, os.WriteFile(j.passwd, fmt.Appendf(nil, "me:x:%d:%d\n", uid, gid), 0o600))
	must(t, os.WriteFile(j.group, fmt.Appendf(nil, "me:x:%d:\n", gid), 0o600))
	must(t, j.path(path))
	// Version 2; the owner, user 7777, the group, the mask and others: tag, rights, id, as
	// in linux/posix_acl_xattr.h.
	list := []byte{2, 0, 0, 0}
	for _, entry := range []struct {
		tag, rights uint16
		id          uint32
	}{{0x01, 7, 1<<32 - 1}, {0x02, 7, 7777}, {0x04, 7, 1<<32 - 1}, {0x10, 7, 1<<32 - 1}, {0x20, 5, 1<<32 - 1}} {
		list = binary.LittleEndian.AppendUint16(list, entry.tag)
		list = binary.LittleEndian.AppendUint16(list, entry.rights)
		list = binary.LittleEndian.AppendUint32(list, entry.id)
	}
	must(t, unix.Setxattr(dir, "system.posix_acl_access", list, 0))
	if err := j.path(path); err == nil || !strings.Contains(hint(err), "chmod go-w "+dir) {
		t.Errorf("a folder that user 7777 can write to: %v", err)
	}
}

// A file system may keep lists of its own kind, which aren't seen: NFS does.
func TestPrivateGroupWhereListsArentKnown(t *testing.T) {
	for _, dir := range []string{"/proc/self", "/not/there"} { // what is in /proc has no such lists, either
		if !listed(dir) {
			t.Errorf("%s: taken as a folder without a list", dir)
		}
	}
}

// The kubelet makes a volume of a ConfigMap root's and open to all, and mounts it for
// reading: whoever is in the container can exchange no links in it.
func TestVolumeOfAConfigMap(t *testing.T) {
	dir, version, real, link := configMap(t, 0o777)
	plain := filepath.Join(dir, "plain.yaml")
	must(t, os.WriteFile(plain, []byte("text"), 0o600))
	err := unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if errors.Is(err, unix.EPERM) {
		t.Skipf("it takes a root that may mount: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	refused(t, link, "directory.yaml is in the folder "+dir+", which others", "chmod go-w "+dir)
	refused(t, real, "directory.yaml is in the folder "+dir+", which others", "chmod go-w "+dir)
	remount := func(flag uintptr) {
		t.Helper()
		must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|flag, ""))
	}
	remount(unix.MS_RDONLY)
	must(t, Path(link))
	refused(t, plain, "plain.yaml is in the folder "+dir+", which others", "then put it into a folder in this one, of mode 0755")
	must(t, Path(real)) // as of a volume that another container has filled
	if data, err := ReadFile(link); string(data) != "text" || err != nil {
		t.Errorf("%q, %v", data, err)
	}

	// What isn't as the kubelet makes it isn't the kubelet's.
	for what, change := range map[string]func() error{
		"open to a group":     func() error { return errors.Join(os.Chown(dir, 0, 4242), os.Chmod(dir, 0o775)) },
		"somebody else's":     func() error { return os.Chown(dir, 4242, 4242) },
		"a version for all":   func() error { return os.Chmod(version, 0o777) },
		"a link of another's": func() error { return os.Lchown(filepath.Join(dir, "..data"), 4242, 4242) },
	} {
		remount(0)
		must(t, os.Chmod(dir, 0o777))
		must(t, os.Chown(dir, 0, 0))
		must(t, os.Chmod(version, 0o755))
		must(t, os.Lchown(filepath.Join(dir, "..data"), 0, 0))
		must(t, change())
		remount(unix.MS_RDONLY)
		if Path(link) == nil {
			t.Errorf("%s: obeyed", what)
		}
	}
}
