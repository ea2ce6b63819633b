//go:build linux

package main

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/kms/allow"
)

// refusal is the extension of the agent protocol that says why the last thing
// on the same connection was refused: the protocol itself has no words for it.
// The answer is SSH_AGENT_SUCCESS and a string.
const refusal = "refusal@hallpass"

// errOnly is what it answers to all that other agents do.
var errOnly = errors.New("hallpass-kms lists its keys and signs, and does nothing else")

// talk is one conversation of the agent protocol.
type talk struct {
	keys []*key
	now  func() time.Time
	log  *slog.Logger
	why  error // of the last refusal
}

// List names the keys that their KMS has opened.
func (t *talk) List() ([]*agent.Key, error) {
	var list []*agent.Key
	t.why = nil
	for _, k := range t.keys {
		s, err := k.get()
		if err != nil {
			t.why = errors.Join(t.why, err)
			continue
		}
		list = append(list, &agent.Key{Format: s.PublicKey().Type(), Blob: s.PublicKey().Marshal(), Comment: k.role.Name})
	}
	return list, nil
}

// Sign is for clients that don't say which hash they want.
func (t *talk) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return t.SignWithFlags(key, data, 0)
}

// SignWithFlags signs what a CA signs.
func (t *talk) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	signature, what, err := t.sign(key, data, flags)
	t.why = err
	if err != nil {
		t.log.Warn("refused", "what", what, "error", err.Error())
		return nil, err
	}
	if what != "" {
		t.log.Info("signed", "what", what)
	}
	return signature, nil
}

func (t *talk) sign(wanted ssh.PublicKey, data []byte, flags agent.SignatureFlags) (signature *ssh.Signature, what string, err error) {
	var closed error // why keys aren't here, of which it may be one
	for _, k := range t.keys {
		s, err := k.get()
		if err != nil {
			closed = errors.Join(closed, err)
			continue
		}
		if !same(s.PublicKey(), wanted) {
			continue
		}
		if what, err = allow.Data(k.role, s.PublicKey(), data, t.now()); err != nil {
			return nil, what, err
		}
		if wanted.Type() == ssh.KeyAlgoRSA && flags&agent.SignatureFlagRsaSha512 == 0 {
			return nil, what, fmt.Errorf("an RSA key signs with %s alone", ssh.KeyAlgoRSASHA512)
		}
		signature, err = sign(s, data)
		return signature, what, err
	}
	return nil, "", errors.Join(errors.New("the key is not one of those here"), closed)
}

// Extension says why the last thing was refused.
func (t *talk) Extension(name string, _ []byte) ([]byte, error) {
	if name != refusal || t.why == nil {
		return nil, agent.ErrExtensionUnsupported
	}
	return ssh.Marshal(struct {
		Text string `sshtype:"6"`
	}{said(t.why).Error()}), nil
}

func (t *talk) Add(agent.AddedKey) error       { return errOnly }
func (t *talk) Remove(ssh.PublicKey) error     { return errOnly }
func (t *talk) RemoveAll() error               { return errOnly }
func (t *talk) Lock([]byte) error              { return errOnly }
func (t *talk) Unlock([]byte) error            { return errOnly }
func (t *talk) Signers() ([]ssh.Signer, error) { return nil, errOnly }

// try makes an SSH signer of what a KMS gives, once it has signed a line.
func try(signer crypto.Signer) (ssh.AlgorithmSigner, error) {
	s, err := ssh.NewSignerFromSigner(signer)
	if err != nil {
		return nil, err
	}
	as, ok := s.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("a key of type %s can't be told what to sign with", s.PublicKey().Type())
	}
	if _, err := sign(as, []byte(allow.Trial)); err != nil {
		return nil, err
	}
	return as, nil
}
