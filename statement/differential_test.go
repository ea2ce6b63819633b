package statement

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// FuzzVerifyAgainstOpenSSH holds Verify against ssh-keygen -Y verify, on
// signatures that were good before one to eight bytes of them were changed, and
// on payloads that go on: what Verify takes, OpenSSH takes, and what OpenSSH
// takes of our keys, in our armor, Verify takes.
func FuzzVerifyAgainstOpenSSH(f *testing.F) {
	tool, err := exec.LookPath("ssh-keygen")
	if err != nil {
		f.Skip("ssh-keygen is not installed")
	}
	dir := f.TempDir()
	var keys []ssh.Signer
	var allowed []byte
	for _, typ := range []string{"ed25519", "ecdsa-256", "rsa-3072"} {
		keys = append(keys, newSigner(f, typ))
		allowed = append(append(allowed, "bob "...), MarshalKey(keys[len(keys)-1].PublicKey())+"\n"...)
	}
	if err := os.WriteFile(filepath.Join(dir, "allowed"), allowed, 0o600); err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), uint8(0), uint16(0), []byte(nil), "")
	f.Add(uint8(1), uint8(1), uint16(0), []byte(nil), "")
	f.Add(uint8(2), uint8(0), uint16(3), []byte{1}, "")          // magic
	f.Add(uint8(0), uint8(0), uint16(9), []byte{1}, "")          // version
	f.Add(uint8(0), uint8(0), uint16(0xffff), []byte{0x80}, "")  // the last byte
	f.Add(uint8(1), uint8(0), uint16(120), []byte{0, 0, 1}, "")  // in the middle
	f.Add(uint8(0), uint8(0), uint16(0), []byte(nil), " ")       // another payload
	f.Add(uint8(2), uint8(0), uint16(500), []byte{0xff, 3}, "x") // both
	f.Fuzz(func(t *testing.T, key, typ uint8, at uint16, change []byte, more string) {
		if len(change) > 8 || len(more) > 1000 {
			return
		}
		types := []access.Type{access.TypeDecision, access.TypeRequest}
		st := mustSign(t, keys[int(key)%len(keys)], decision())
		block, _ := pem.Decode([]byte(st.Signature))
		version := slices.Clone(block.Bytes[6:10])
		for i, mask := range change {
			block.Bytes[(int(at)+i)%len(block.Bytes)] ^= mask
		}
		st.Payload += more
		st.Signature = string(pem.EncodeToMemory(block)) // lines of 64 instead of 70: both readers take either
		as := types[int(typ)%len(types)]
		verified, err := Verify(st, as)
		ours := err == nil
		if ours {
			known := false
			for _, k := range keys {
				known = known || bytes.Equal(k.PublicKey().Marshal(), verified.Key.Marshal())
			}
			ours = known // by whom is the directory's to say
		}
		sig := filepath.Join(t.TempDir(), "sig")
		if err := os.WriteFile(sig, []byte(st.Signature), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(tool, "-Y", "verify", "-f", filepath.Join(dir, "allowed"), "-I", "bob", "-n", as.Namespace(), "-s", sig)
		cmd.Stdin = strings.NewReader(st.Payload)
		out, theirs := cmd.CombinedOutput()
		// OpenSSH also takes versions of the format before the first one.
		if older := !bytes.Equal(version, block.Bytes[6:10]) && err != nil; ours != (theirs == nil) && !older {
			t.Errorf("ours: %v; ssh-keygen: %v %s", err, theirs, out)
		}
	})
}
