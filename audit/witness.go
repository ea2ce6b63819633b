package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"hallpass/access"
)

// cosignatureType is that of cosignature/v1 keys in a key's first byte (C2SP
// signed-note).
const cosignatureType = 4

// Cosignature says that a witness has seen a checkpoint, and none before it that
// it doesn't go on from.
type Cosignature struct {
	Witness string    `json:"witness"` // name of its key
	Time    time.Time `json:"time"`    // by its clock
}

// witness verifies the cosignatures of one key (C2SP tlog-cosignature,
// cosignature/v1): a time, and an Ed25519 signature over it and the checkpoint.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }

func (w *witness) Verify(msg, sig []byte) bool {
	at, ok := cosignedAt(sig)
	return ok && ed25519.Verify(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, msg), sig[8:])
}

// cosignedAt is the time in a cosignature, in seconds since 1970.
func cosignedAt(sig []byte) (int64, bool) {
	if len(sig) != 8+ed25519.SignatureSize {
		return 0, false
	}
	at := binary.BigEndian.Uint64(sig)
	return int64(at), 0 < at && at < 1<<40
}

// parseWitness reads the key of a witness, "name+hash+key".
func parseWitness(text string) (*witness, error) {
	bad := access.Errorf(access.CodeMalformed, "witness key %q is not of the form name+hash+key, of the type cosignature/v1", clip(text))
	name, rest, _ := strings.Cut(text, "+")
	hash, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || name == "" || strings.ContainsAny(name, " \t\r\n") || len(key) != 1+ed25519.PublicKeySize || key[0] != cosignatureType {
		return nil, bad
	}
	id := sha256.Sum256(append([]byte(name+"\n"), key...))
	want := binary.BigEndian.Uint32(id[:])
	if got, err := strconv.ParseUint(hash, 16, 32); err != nil || len(hash) != 8 || uint32(got) != want {
		return nil, bad
	}
	return &witness{name: name, hash: want, key: key[1:]}, nil
}

// Witnessed verifies that each of the witnesses (their keys, "name+hash+key")
// has cosigned a checkpoint, and says when. Signatures by others are passed
// over. Whether the log itself has signed it is OpenCheckpoint's to say.
//
// Errors: CodeMalformed for what isn't a checkpoint or a key; CodeUnverified
// where a cosignature is missing or wrong.
func Witnessed(msg []byte, keys ...string) ([]Cosignature, error) {
	if len(msg) > maxCheckpoint {
		return nil, access.Errorf(access.CodeMalformed, "checkpoint is longer than %d bytes", maxCheckpoint)
	}
	var all []Cosignature
	for _, key := range keys {
		w, err := parseWitness(key)
		if err != nil {
			return nil, err
		}
		n, err := note.Open(msg, note.VerifierList(w))
		var unverified *note.UnverifiedNoteError
		if errors.As(err, &unverified) {
			return nil, access.Errorf(access.CodeUnverified, "checkpoint is not cosigned by the witness %s", w.name)
		} else if err != nil {
			return nil, access.Errorf(access.CodeUnverified, "checkpoint, by the witness %s: %v", w.name, err)
		}
		if _, err := parseCheckpoint(n.Text); err != nil {
			return nil, err
		}
		sig, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
		if err != nil || len(sig) < 4 {
			return nil, access.Errorf(access.CodeUnverified, "checkpoint, by the witness %s: malformed signature", w.name)
		}
		at, _ := cosignedAt(sig[4:])
		all = append(all, Cosignature{Witness: w.name, Time: time.Unix(at, 0).UTC()})
	}
	return all, nil
}
