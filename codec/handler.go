package codec

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"go.temporal.io/sdk/converter"
)

// maxBody bounds what the UI may send at a time, in bytes.
const maxBody = 8 << 20

// Handler decodes for the Temporal UI, as its "codec server": POST TOKEN/decode
// and TOKEN/encode below its address, or with the token as a Bearer. Without
// the token there is nothing there. origin is the address of the UI: browsers
// let no other page read what is answered.
//
// The token is as good as the keys. The UI has no header of its own to give,
// so it is part of the address that people enter there.
func Handler(ring *Ring, origin, token string) http.Handler {
	codec := http.MaxBytesHandler(converter.NewPayloadCodecHTTPHandler(ring), maxBody)
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Add("Vary", "Origin")
		if from := r.Header.Get("Origin"); from != "" && from != origin {
			http.Error(w, "this origin is not let in", http.StatusForbidden)
			return
		}
		given, call, inPath := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if !inPath {
			given, call = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), given
		}
		h.Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions { // says nothing, and browsers send it without credentials
			h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Namespace")
			h.Set("Access-Control-Allow-Private-Network", "true")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		is := sha256.Sum256([]byte(given))
		if token == "" || subtle.ConstantTimeCompare(is[:], want[:]) != 1 || call != "decode" && call != "encode" {
			http.NotFound(w, r)
			return
		}
		r = r.Clone(r.Context())
		r.URL.Path = "/" + call
		codec.ServeHTTP(w, r)
	})
}
