package trusted

import (
	"errors"

	"golang.org/x/sys/unix"
)

// readOnly says whether nothing can be changed below a folder, by its mount.
func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// listed says whether an access control list may name somebody else. Where the file
// system has none of this kind, as NFS, it may have another.
func listed(dir string) bool {
	_, err := unix.Lgetxattr(dir, "system.posix_acl_access", nil)
	return !errors.Is(err, unix.ENODATA)
}
