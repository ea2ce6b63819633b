//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"go.step.sm/crypto/kms/apiv1"

	"hallpass/kms/allow"
)

// Tokens lock themselves: a PIN that one has refused is tried for no other key,
// and not again.
func TestAWrongPINIsTriedOnce(t *testing.T) {
	real := managers["pkcs11"]
	defer func() { managers["pkcs11"] = real }()
	refused := &pins{file: map[string]bool{}}
	tried := 0
	managers["pkcs11"] = func(context.Context, apiv1.Options) (apiv1.KeyManager, error) {
		tried++
		return nil, errors.New("pkcs11: 0xA0: CKR_PIN_INCORRECT")
	}
	var opening sync.WaitGroup
	for _, role := range []allow.Role{allow.Users, allow.Hosts} {
		k := &key{role: role, uri: fmt.Sprintf("pkcs11:token=t;object=%s?pin-source=/pin", role.Name), log: slog.New(slog.DiscardHandler), pins: refused}
		opening.Go(func() {
			k.keepOpening(t.Context())
			if _, err := k.get(); !errors.Is(err, errPIN) {
				t.Errorf("%s: %v", role.Name, err)
			}
		})
	}
	opening.Wait()
	if tried != 1 {
		t.Errorf("the PIN was tried %d times", tried)
	}
	if err := said(fmt.Errorf("once more: %w", errPIN)); !errors.Is(err, errPIN) {
		t.Errorf("said again it is %v", err)
	}
}
