package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"hallpass/access"
)

// witnessKey is a witness's key, as its verifiers have it.
func witnessKey(name string, typ byte) (string, ed25519.PrivateKey) {
	seed := sha256.Sum256([]byte(name))
	private := ed25519.NewKeyFromSeed(seed[:])
	key := append([]byte{typ}, private.Public().(ed25519.PublicKey)...)
	id := sha256.Sum256(append([]byte(name+"\n"), key...))
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(key)), private
}

// cosign adds a witness's signature to a checkpoint, as C2SP tlog-cosignature
// has it.
func cosign(msg []byte, name string, at uint64) []byte {
	key, private := witnessKey(name, 4)
	text, _, _ := strings.Cut(string(msg), "\n\n")
	sig := ed25519.Sign(private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s\n", at, text))
	hash := make([]byte, 4)
	if _, err := fmt.Sscanf(strings.Split(key, "+")[1], "%x", &hash); err != nil {
		panic(err)
	}
	body := append(binary.BigEndian.AppendUint64(hash, at), sig...)
	return fmt.Appendf(msg, "— %s %s\n", name, base64.StdEncoding.EncodeToString(body))
}

func TestWitnessed(t *testing.T) {
	l, _, public := newLog(t)
	msg, err := l.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	one, _ := witnessKey("one.example.com/w", 4)
	two, _ := witnessKey("two.example.com/w", 4)
	plain, _ := witnessKey("one.example.com/w", 1)
	both := cosign(cosign(msg, "one.example.com/w", 1_700_000_000), "two.example.com/w", 1_700_000_001)
	for _, row := range []struct {
		name string
		msg  []byte
		keys []string
		want string // the error, or when it was seen
		code access.Code
	}{
		{"one of two", both, []string{one}, "one.example.com/w 1700000000", ""},
		{"both", both, []string{two, one}, "two.example.com/w 1700000001 one.example.com/w 1700000000", ""},
		{"one is missing", cosign(msg, "one.example.com/w", 1_700_000_000), []string{one, two}, "not cosigned by the witness two.example.com/w", access.CodeUnverified},
		{"none", msg, []string{one}, "not cosigned by the witness one.example.com/w", access.CodeUnverified},
		{"another checkpoint", []byte(strings.Replace(string(both), "\n0\n", "\n1\n", 1)), []string{one}, "invalid signature", access.CodeUnverified},
		{"time that isn't one", cosign(msg, "one.example.com/w", 0), []string{one}, "invalid signature", access.CodeUnverified},
		{"key of another type", both, []string{plain}, "not of the form name+hash+key, of the type cosignature/v1", access.CodeMalformed},
		{"key with another hash", both, []string{strings.Replace(one, "+", "+0", 1)}, "not of the form", access.CodeMalformed},
		{"no key", both, []string{""}, "not of the form", access.CodeMalformed},
	} {
		got, err := Witnessed(row.msg, row.keys...)
		var said []string
		for _, c := range got {
			said = append(said, fmt.Sprint(c.Witness, " ", c.Time.Unix()))
		}
		if err != nil {
			said = []string{err.Error()}
		}
		if access.CodeOf(err) != row.code || !strings.Contains(strings.Join(said, " "), row.want) {
			t.Errorf("%s: %q, want %q", row.name, said, row.want)
		}
	}
	// What another implementation (transparency-dev/formats) has written.
	const theirs = "audit.example.com\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
		"— witness.example.com/w1 S//OmAAAAABrByvBjcWONmWCd/9PCS0ab4B+AwxdpHfM/FImdZlrrrYHLjYpimKj3RVV2ZwQH1GGJawvmeT9LnwCYOOv0V7EVIFyBQ==\n"
	got, err := Witnessed([]byte(theirs), "witness.example.com/w1+4bffce98+BCO8VJEsHm6SxKhoJchn4n/9xVW/+9QkTxeiar//7pZd")
	if err != nil || len(got) != 1 || got[0].Time.Unix() != 0x6b072bc1 {
		t.Errorf("%v, %v", got, err)
	}
	// The log's own signature is as good with them.
	if c, err := OpenCheckpoint(both, public); err != nil || c.Size != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}
