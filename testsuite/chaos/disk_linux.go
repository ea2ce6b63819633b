package chaos

import (
	"errors"
	"fmt"
	"syscall"
)

// roomy is the size of a Disk: more than anything here needs. It takes no more
// memory than is written to it.
const roomy = 4 << 30

// Disk is a small file system in memory, which can be full.
type Disk struct{ Name, dir string }

// Mount makes one at an empty folder, as root. It is gone after Unmount.
func Mount(name, dir string) (*Disk, error) {
	d := &Disk{name, dir}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options(roomy)); err != nil {
		return nil, fmt.Errorf("mount a disk to fill: %w", err)
	}
	return d, nil
}

func options(size uint64) string { return fmt.Sprintf("size=%d,mode=0700", size) }

// Fill leaves no room but for what is there.
func (d *Disk) Fill() error {
	for range 10 { // it grows meanwhile
		var s syscall.Statfs_t
		if err := syscall.Statfs(d.dir, &s); err != nil {
			return err
		}
		err := d.resize((s.Blocks - s.Bfree) * uint64(s.Bsize))
		if !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	return errors.New("the disk grows too fast to be filled")
}

// Empty makes room again.
func (d *Disk) Empty() error { return d.resize(roomy) }

func (d *Disk) resize(size uint64) error {
	return syscall.Mount("tmpfs", d.dir, "tmpfs", syscall.MS_REMOUNT, options(size))
}

// Unmount takes it away, with all that is on it.
func (d *Disk) Unmount() error { return syscall.Unmount(d.dir, syscall.MNT_DETACH) }
