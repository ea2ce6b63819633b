package trusted

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The kubelet makes a volume of a ConfigMap root's and open to all, and mounts it for
// reading: whoever is in the container can exchange no links in it.
func TestVolumeOfAConfigMap(t *testing.T) {
	dir, version, _, link := configMap(t, 0o777)
	err := unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if errors.Is(err, unix.EPERM) {
		t.Skipf("it takes a root that may mount: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	refused(t, link, "directory.yaml is in a folder that others", "chmod go-w "+dir)
	remount := func(flag uintptr) {
		t.Helper()
		must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|flag, ""))
	}
	remount(unix.MS_RDONLY)
	must(t, Path(link))
	if data, err := ReadFile(link); string(data) != "text" || err != nil {
		t.Errorf("%q, %v", data, err)
	}

	// What isn't as the kubelet makes it isn't the kubelet's.
	for what, change := range map[string]func() error{
		"open to a group":     func() error { return os.Chmod(dir, 0o775) },
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
