package statement

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/process"
)

// allowedTo finds ssh-keygen, and makes a key of each sort and the file that allows them
// to somebody.
func allowedTo(f *testing.F, who string) (tool, file string, keys []ssh.Signer) {
	f.Helper()
	tool = process.Installed(f, "ssh-keygen")
	var allowed []byte
	for _, typ := range []string{"ed25519", "ecdsa-256", "rsa-3072"} {
		keys = append(keys, newSigner(f, typ))
		allowed = fmt.Appendf(allowed, "%s %s\n", who, MarshalKey(keys[len(keys)-1].PublicKey()))
	}
	file = filepath.Join(f.TempDir(), "allowed")
	if err := os.WriteFile(file, allowed, 0o600); err != nil {
		f.Fatal(err)
	}
	return tool, file, keys
}

// FuzzVerifyAgainstOpenSSH holds Verify against ssh-keygen -Y verify, on
// signatures that were good before one to eight bytes of them were changed, and
// on payloads that go on: what Verify takes, OpenSSH takes, and what OpenSSH
// takes of our keys, in our armor, Verify takes.
func FuzzVerifyAgainstOpenSSH(f *testing.F) {
	tool, allowed, keys := allowedTo(f, "bob")
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
		cmd := exec.Command(tool, "-Y", "verify", "-f", allowed, "-I", "bob", "-n", as.Namespace(), "-s", sig)
		cmd.Stdin = strings.NewReader(st.Payload)
		out, theirs := cmd.CombinedOutput()
		// OpenSSH also takes versions of the format before the first one.
		if older := !bytes.Equal(version, block.Bytes[6:10]) && err != nil; ours != (theirs == nil) && !older {
			t.Errorf("ours: %v; ssh-keygen: %v %s", err, theirs, out)
		}
	})
}

// FuzzSignAgainstOpenSSH has ssh-keygen -Y verify what SignData signs, whatever
// it is: it takes the very bytes, under the very namespace, and nothing else.
func FuzzSignAgainstOpenSSH(f *testing.F) {
	tool, allowed, keys := allowedTo(f, "ca")
	f.Add(uint8(0), EnrolledNamespace, []byte(`{"host":"web-1"}`), []byte(" "))
	f.Add(uint8(1), "krl@hallpass", []byte("SSHKRL\n\x00"), []byte(nil))
	f.Add(uint8(2), "x", []byte(nil), []byte("\n"))
	f.Add(uint8(0), "", []byte("no namespace"), []byte(nil))
	f.Add(uint8(0), "größer\n", []byte("\r\n\x00"), []byte(nil))
	f.Fuzz(func(t *testing.T, key uint8, namespace string, data, more []byte) {
		if strings.ContainsRune(namespace, 0) || len(namespace) > 1000 {
			return // it can't be given to a program
		}
		by := keys[int(key)%len(keys)]
		signature, err := SignData(by, namespace, data)
		if err != nil {
			if access.CodeOf(err) == "" || namespace != "" && namespace == strings.ToValidUTF8(namespace, "") {
				t.Errorf("not signed under %q: %v", namespace, err)
			}
			return
		}
		sig := filepath.Join(t.TempDir(), "sig")
		if err := os.WriteFile(sig, []byte(signature), 0o600); err != nil {
			t.Fatal(err)
		}
		verify := func(namespace string, data []byte) (bool, []byte) {
			cmd := exec.Command(tool, "-Y", "verify", "-f", allowed, "-I", "ca", "-n", namespace, "-s", sig)
			cmd.Stdin = bytes.NewReader(data)
			out, err := cmd.CombinedOutput()
			return err == nil, out
		}
		if ok, out := verify(namespace, data); !ok || !bytes.Contains(out, []byte(ssh.FingerprintSHA256(by.PublicKey()))) {
			t.Errorf("ssh-keygen doesn't take what %s has signed under %q: %s", ssh.FingerprintSHA256(by.PublicKey()), namespace, out)
		}
		if len(more) > 0 {
			longer := append(slices.Clone(data), more...)
			_, err := VerifyData(longer, namespace, signature)
			if ok, _ := verify(namespace, longer); ok || access.CodeOf(err) != access.CodeUnverified {
				t.Errorf("it goes for %q too: ssh-keygen %t, ours %v", longer, ok, err)
			}
		}
		other := namespace + "x"
		_, err = VerifyData(data, other, signature)
		if ok, _ := verify(other, data); ok || access.CodeOf(err) != access.CodeUnverified {
			t.Errorf("it goes under %q too: ssh-keygen %t, ours %v", other, ok, err)
		}
	})
}
