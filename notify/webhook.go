package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hallpass/access"
)

// Webhook posts messages as JSON, signed as Standard Webhooks says
// (https://www.standardwebhooks.com): a receiver checks the signature and the
// age, and drops what has an id that it has seen.
type Webhook struct {
	url    string
	secret []byte
	poster *poster
	now    func() time.Time
}

// envelope is the body.
type envelope struct {
	Type      Event     `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      Message   `json:"data"`
}

// Send posts the message.
func (w *Webhook) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(envelope{m.Event, m.Time, m})
	if err != nil {
		return err
	}
	at := strconv.FormatInt(w.now().Unix(), 10)
	return w.poster.post(ctx, w.url, body, http.Header{
		"Webhook-Id": {m.ID}, "Webhook-Timestamp": {at}, "Webhook-Signature": {sign(w.secret, m.ID, at, body)},
	})
}

// sign is the signature with a symmetric key, scheme "v1".
func sign(secret []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// parseSecret reads a secret as Standard Webhooks writes it.
func parseSecret(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, access.Errorf(access.CodeMalformed, "a webhook's secret is whsec_ and 24 to 64 bytes in base64").
			WithHint(`make one with: echo "whsec_$(openssl rand -base64 32)"`)
	}
	return key, nil
}
