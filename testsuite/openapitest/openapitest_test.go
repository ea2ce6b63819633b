package openapitest

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

const description = `
paths:
  /things/{id}:
    get:
      responses:
        "200": {content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}}}}
        "304": {description: same}
  /things/all:
    get:
      responses:
        "200": {content: {application/json: {schema: {type: array, items: {$ref: "#/components/schemas/Thing"}}}}}
components:
  schemas:
    Thing:
      type: object
      required: [name]
      properties:
        name: {type: string, enum: [a, b]}
        size: {type: [integer, "null"]}
        by: {type: object, additionalProperties: {type: boolean}}
`

func TestWatch(t *testing.T) {
	spec, err := Parse([]byte(description))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, typ, body string
		status          int
		ok              bool
	}{
		{"/things/1", "application/json", `{"name":"a","size":1,"by":{"x":true}}`, 200, true},
		{"/things/1", "application/json", `{"name":"b","size":null}`, 200, true},
		{"/things/all", "application/json", `[{"name":"b"}]`, 200, true},
		{"/things/all", "application/json", `{"name":"b"}`, 200, false},
		{"/things/1", "application/json; charset=utf-8", `{"size":1}`, 200, false},
		{"/things/1", "application/json", `{"name":"c"}`, 200, false},
		{"/things/1", "application/json", `{"name":"a","size":1.5}`, 200, false},
		{"/things/1", "application/json", `{"name":"a","more":1}`, 200, false},
		{"/things/1", "application/json", `{"name":"a","by":{"x":"y"}}`, 200, false},
		{"/things/1", "text/plain", `a`, 200, false},
		{"/things/1", "application/json", `{"name":"a"}`, 201, false},
		{"/things/1", "", ``, 304, true},
		{"/others", "", ``, 200, false},
		{"/others", "", ``, 404, true},
	} {
		var wrong error
		h := spec.Watch(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.typ)
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}), func(err error) { wrong = err })
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, tt.path, nil))
		if (wrong == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, wrong)
		}
	}
}
