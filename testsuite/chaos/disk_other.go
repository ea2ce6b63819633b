//go:build !linux

package chaos

import (
	"errors"
	"fmt"
)

// Disk is a small file system in memory, which can be full: on Linux.
type Disk struct{ Name string }

// Mount fails.
func Mount(string, string) (*Disk, error) {
	return nil, fmt.Errorf("disks are filled on Linux only: %w", errors.ErrUnsupported)
}

// Fill does nothing.
func (*Disk) Fill() error { return nil }

// Empty does nothing.
func (*Disk) Empty() error { return nil }

// Unmount does nothing.
func (*Disk) Unmount() error { return nil }
