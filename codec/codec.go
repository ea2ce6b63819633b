// Package codec encrypts what hallpass puts into Temporal, so that those who
// operate Temporal, or read its database and its back-ups, see times and
// states and not what was asked for and why.
//
// Use Open for the ring of keys and give it to a Temporal client as its
// PayloadCodec. Use Handler to let the Temporal UI show people who have the
// keys what is in there.
//
// What is promised: a payload is AES-256-GCM with a nonce of its own, bound to
// the id of its key. Changed or cut off, it isn't decoded. A key that is put
// in front of the others encrypts from then on, in processes that run too; the
// others go on decrypting. What isn't encrypted passes as it is: histories
// from before, and signals from clients that have no keys. Nobody's word counts
// for more because it was encrypted: what is believed is signatures.
//
// What isn't: search attributes and workflow ids are never encrypted, or nobody
// could look for anything. An owner of Temporal can put one encrypted payload
// into the place of another.
package codec

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"hallpass/access"
)

// What encrypted payloads say of themselves.
const (
	Encoding = "binary/hallpass-aes256gcm" // of converter.MetadataEncoding
	KeyID    = "hallpass-key"              // metadata: the id of the key
)

var _ converter.PayloadCodec = (*Ring)(nil)

// Encode encrypts payloads with the ring's first key.
func (r *Ring) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	if r.path == "" {
		return payloads, nil
	}
	keys, err := r.current()
	if err != nil {
		return nil, err
	}
	k := keys[0]
	out := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		clear, err := proto.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encrypt payload: %w", err)
		}
		nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(clear)+k.aead.Overhead())
		_, _ = rand.Read(nonce) // never fails: crypto/rand
		out[i] = &commonpb.Payload{
			Metadata: map[string][]byte{converter.MetadataEncoding: []byte(Encoding), KeyID: []byte(k.id)},
			Data:     k.aead.Seal(nonce, nonce, clear, bound(k.id)),
		}
	}
	return out, nil
}

// Decode decrypts those payloads that are encrypted.
//
// Errors: CodeNotFound if the ring doesn't have the key, CodeUnverified if a
// payload isn't what was encrypted with it.
func (r *Ring) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	out := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		if string(p.GetMetadata()[converter.MetadataEncoding]) != Encoding {
			out[i] = p
			continue
		}
		k, err := r.key(string(p.Metadata[KeyID]))
		if err != nil {
			return nil, err
		}
		wrong := access.Errorf(access.CodeUnverified, "a payload in temporal is not what was encrypted with the key %s", k.id)
		n := k.aead.NonceSize()
		if len(p.Data) < n {
			return nil, wrong
		}
		clear, err := k.aead.Open(nil, p.Data[:n], p.Data[n:], bound(k.id))
		if err != nil {
			return nil, wrong
		}
		out[i] = &commonpb.Payload{}
		if err := proto.Unmarshal(clear, out[i]); err != nil {
			return nil, wrong
		}
	}
	return out, nil
}

// bound is what a ciphertext is bound to.
func bound(id string) []byte { return []byte(Encoding + "\x00" + id) }

// key is one key of a ring.
type key struct {
	id   string
	aead cipher.AEAD
}

func newKey(id string, secret []byte) (key, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return key{}, err
	}
	aead, err := cipher.NewGCM(block)
	return key{id, aead}, err
}
