package trusted

import "golang.org/x/sys/unix"

// readOnly says whether nothing can be changed below a folder, by its mount.
func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
