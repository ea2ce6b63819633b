package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// A file that is to be a CA's key is one, and signs, or what is wrong is said in one line
// that has nothing of it.
func FuzzKeyFile(f *testing.F) {
	dir := f.TempDir()
	for i, typ := range []string{"ed25519", "ecdsa-p256"} {
		path := filepath.Join(dir, typ)
		if _, err := Create(path, typ, [][]byte{nil, []byte("passphrase")}[i], "a comment"); err != nil {
			f.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\n\n-----END OPENSSH PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"))
	path := filepath.Join(dir, "key")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		signer, err := Open("file:"+path, OpenOptions{})
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 300+len(path) {
				t.Errorf("it is said in more than a line: %q", err)
			}
			return
		}
		said := []byte("x")
		if sig, err := signer.Sign(rand.Reader, said); err != nil {
			t.Errorf("it doesn't sign: %v", err)
		} else if err := signer.PublicKey().Verify(said, sig); err != nil {
			t.Errorf("what it signs isn't good: %v", err)
		}
	})
}

// An agent may say anything: the key is the one that was asked for, or there is none, and
// what is wrong is said in one line.
func FuzzAgentReplies(f *testing.F) {
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public()) // the same in each process
	if err != nil {
		f.Fatal(err)
	}
	identities := func(keys ...agent.Key) []byte {
		out := []byte{12}
		out = binary.BigEndian.AppendUint32(out, uint32(len(keys)))
		for _, k := range keys {
			out = append(out, ssh.Marshal(struct{ Blob, Comment string }{string(k.Blob), k.Comment})...)
		}
		return out
	}
	held := identities(agent.Key{Blob: key.Marshal(), Comment: "ca"})
	refused := append([]byte{6}, ssh.Marshal(struct{ Text string }{"the token is locked\n\x1b[2J"})...)
	sig := append([]byte{14}, ssh.Marshal(struct{ Sig string }{string(ssh.Marshal(ssh.Signature{Format: "ssh-ed25519", Blob: make([]byte, 64)}))})...)
	f.Add(held, sig)
	f.Add(held, []byte{5})
	f.Add(identities(), refused)
	f.Add(identities(agent.Key{Blob: []byte("not a key"), Comment: "\x1b[2J"}), refused)
	f.Add([]byte{12, 0xff, 0xff, 0xff, 0xff}, []byte{14, 0, 0, 0, 1})
	f.Add([]byte{5}, []byte{})
	var first, rest atomic.Pointer[[]byte]
	socket := filepath.Join(f.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = l.Close() })
	go func() { // to the first message of each connection the one answer, and to others the other
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			for says := &first; ; says = &rest {
				var length [4]byte
				if _, err := io.ReadFull(conn, length[:]); err != nil {
					break
				}
				if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(length[:]))); err != nil {
					break
				}
				text := *says.Load()
				if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
					break
				}
			}
			_ = conn.Close()
		}
	}()
	line := func(t *testing.T, err error) {
		t.Helper()
		if err != nil && (strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 2000) {
			t.Errorf("it is said in more than a line: %.3000q", err)
		}
	}
	f.Fuzz(func(t *testing.T, list, other []byte) {
		first.Store(&list)
		rest.Store(&other)
		signer, err := Open("agent:"+ssh.FingerprintSHA256(key), OpenOptions{AgentSocket: socket})
		if line(t, err); err == nil && ssh.FingerprintSHA256(signer.PublicKey()) != ssh.FingerprintSHA256(key) {
			t.Errorf("it is %s", ssh.FingerprintSHA256(signer.PublicKey()))
		}
		first.Store(&other)
		_, err = (&agentSigner{socket, key}).Sign(rand.Reader, []byte("x"))
		line(t, err)
	})
}
