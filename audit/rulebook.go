package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"unicode/utf8"

	"hallpass/access"
	"hallpass/evidence"
)

// RecordRulebook records the versions of the three files, each once per
// digest, and takes them for the ones in force: events with a statement that
// don't say by which files it was judged cite them from here on. It is to be
// called at start and at each change, before anything is judged by the new
// files; events that cite files which aren't in the log are refused.
func (l *Log) RecordRulebook(ctx context.Context, b *evidence.Rulebook) error {
	d := b.Digests()
	err := l.RecordFiles(ctx,
		File{FilePolicy, d.Policy, string(b.Policy.Data())},
		File{FileDirectory, d.Directory, string(b.Directory.Data())},
		File{FileCatalog, d.Catalog, string(b.Catalog.Data())},
	)
	if err == nil {
		l.inForce.Store(&d)
	}
	return err
}

// RecordFiles records versions of rulebook files, each once per digest.
func (l *Log) RecordFiles(ctx context.Context, files ...File) error {
	for _, f := range files {
		if f.Name != FilePolicy && f.Name != FileDirectory && f.Name != FileCatalog {
			return access.Errorf(access.CodeMalformed, "rulebook file %q is not policy, directory or catalog", clip(f.Name))
		}
		if !utf8.ValidString(f.Content) {
			return access.Errorf(access.CodeMalformed, "%s file is not valid UTF-8", f.Name)
		}
		if d := digestOf(f.Content); f.Digest != d {
			return access.Errorf(access.CodeMismatch, "%s file has the digest %s, not %s", f.Name, d, clip(f.Digest))
		}
	}
	_, err := update(ctx, l, func(t *tx) (struct{}, error) {
		for _, f := range files {
			if _, err := t.append(Event{Type: RulebookChanged, Step: fileStep(f.Name, f.Digest), File: &f}); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return err
}

// fileStep is the step of the event that holds a version of a file.
func fileStep(name, digest string) string { return name + " " + digest }

// digestOf names a version of a file, as access.Digests does.
func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}
