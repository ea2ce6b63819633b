// Package newfile makes files that are there whole or not at all, such as keys.
package newfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write puts a file into place whole and on its disk, whatever happens on the way, or
// fails with fs.ErrExist where there is one: link, unlike rename, doesn't replace.
func Write(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a spare name
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: errors.Unwrap(err)}
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	return nil
}
