//go:build !linux

package chaos

import "errors"

// Disk is a small file system in memory, which can be full: on Linux.
type Disk struct{ Name string }

// Mount fails.
func Mount(string, string) (*Disk, error) {
	return nil, errors.New("disks can be filled on Linux only")
}

// Fill does nothing.
func (*Disk) Fill() error { return nil }

// Empty does nothing.
func (*Disk) Empty() error { return nil }

// Unmount does nothing.
func (*Disk) Unmount() error { return nil }
