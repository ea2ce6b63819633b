// Package openapitest holds what a server answers to its OpenAPI description.
//
// Wrap a handler in Watch, in a test that calls it anyway: every answer then has
// to be one that the description knows, of the shape that it gives. It reads as
// much of OpenAPI and JSON Schema as service/openapi.yaml uses, and refuses the
// rest.
package openapitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Spec is a description.
type Spec struct{ root map[string]any }

// Parse reads a description.
func Parse(data []byte) (*Spec, error) {
	s := &Spec{}
	if err := yaml.Unmarshal(data, &s.root); err != nil {
		return nil, fmt.Errorf("read description: %w", err)
	}
	return s, nil
}

// Operations lists what can be called, each as "METHOD /path/{parameter}".
func (s *Spec) Operations() []string {
	var all []string
	paths, _ := s.root["paths"].(map[string]any)
	for path, item := range paths {
		methods, _ := item.(map[string]any)
		for method := range methods {
			all = append(all, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(all)
	return all
}

// Watch is the handler, with wrong called for every answer that isn't as
// described. What the description has no operation for has to be 404.
func (s *Spec) Watch(h http.Handler, wrong func(error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(rec, r)
		if err := s.check(r, rec); err != nil {
			wrong(fmt.Errorf("%s %s: %d: %w\n%s", r.Method, r.URL.Path, rec.status, err, rec.body.Bytes()))
		}
	})
}

type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.body.Write(p)
	return r.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (s *Spec) check(r *http.Request, rec *recorder) error {
	method := strings.ToLower(r.Method)
	if method == "head" {
		method = "get"
	}
	operation := s.operation(method, r.URL.Path)
	if operation == nil {
		if rec.status == http.StatusNotFound {
			return nil
		}
		return errors.New("there is no such operation")
	}
	responses, _ := operation["responses"].(map[string]any)
	response, err := s.resolve(responses[strconv.Itoa(rec.status)])
	if err != nil {
		return err
	}
	if response == nil {
		return errors.New("the operation has no such status")
	}
	content, _ := response["content"].(map[string]any)
	if len(content) == 0 {
		if rec.body.Len() > 0 {
			return errors.New("there shouldn't be a body")
		}
		return nil
	}
	typ, _, err := mime.ParseMediaType(rec.Header().Get("Content-Type"))
	if err != nil {
		return err
	}
	media, _ := content[typ].(map[string]any)
	if media == nil {
		return fmt.Errorf("its type is %s", typ)
	}
	if typ != "application/json" || r.Method == http.MethodHead {
		return nil
	}
	var value any
	if err := json.Unmarshal(rec.body.Bytes(), &value); err != nil {
		return err
	}
	return s.fits("answer", media["schema"], value)
}

// operation is the one for a path; a word comes before a parameter.
func (s *Spec) operation(method, path string) map[string]any {
	paths, _ := s.root["paths"].(map[string]any)
	words := strings.Split(path, "/")
	var best map[string]any
	most := -1
	for template, item := range paths {
		parts := strings.Split(template, "/")
		literal := 0
		same := slices.EqualFunc(parts, words, func(part, word string) bool {
			if part == word {
				literal++
				return true
			}
			return strings.HasPrefix(part, "{") && word != ""
		})
		methods, _ := item.(map[string]any)
		if operation, ok := methods[method].(map[string]any); ok && same && literal > most {
			best, most = operation, literal
		}
	}
	return best
}

// resolve follows references within the description.
func (s *Spec) resolve(node any) (map[string]any, error) {
	m, _ := node.(map[string]any)
	for {
		ref, ok := m["$ref"].(string)
		if !ok {
			return m, nil
		}
		var at any = s.root
		for word := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			in, _ := at.(map[string]any)
			at = in[word]
		}
		if m, ok = at.(map[string]any); !ok {
			return nil, fmt.Errorf("%s points nowhere", ref)
		}
	}
}

// Fits says whether a value, as encoding/json reads it, is as a named schema of
// the description has it.
func (s *Spec) Fits(schema string, value any) error {
	return s.fits(schema, map[string]any{"$ref": "#/components/schemas/" + schema}, value)
}

func (s *Spec) fits(at string, node, value any) error {
	schema, err := s.resolve(node)
	if err != nil {
		return err
	}
	for word := range schema {
		if !slices.Contains([]string{"type", "properties", "required", "items", "enum", "additionalProperties", "format", "description"}, word) {
			return fmt.Errorf("%s: this package doesn't know %q in a schema", at, word)
		}
	}
	if err := ofType(at, schema["type"], value); err != nil {
		return err
	}
	if text, ok := value.(string); ok && schema["format"] == "date-time" {
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, value) {
		return fmt.Errorf("%s is %v, none of %v", at, value, enum)
	}
	switch v := value.(type) {
	case []any:
		for i, one := range v {
			if err := s.fits(fmt.Sprintf("%s[%d]", at, i), schema["items"], one); err != nil {
				return err
			}
		}
	case map[string]any:
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				return fmt.Errorf("%s has no %s", at, name)
			}
		}
		properties, _ := schema["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			property, ok := properties[name]
			if !ok {
				property, ok = schema["additionalProperties"]
			}
			if !ok && schema["type"] != nil {
				return fmt.Errorf("%s.%s isn't described", at, name)
			}
			if ok {
				if err := s.fits(at+"."+name, property, v[name]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ofType compares with one type or several; with none, anything goes.
func ofType(at string, typ, value any) error {
	var is string
	switch v := value.(type) {
	case nil:
		is = "null"
	case string:
		is = "string"
	case bool:
		is = "boolean"
	case float64:
		if is = "number"; v == float64(int64(v)) {
			is = "integer"
		}
	case []any:
		is = "array"
	case map[string]any:
		is = "object"
	}
	switch t := typ.(type) {
	case nil:
		return nil
	case string:
		if t == is {
			return nil
		}
	case []any:
		if slices.Contains(t, any(is)) {
			return nil
		}
	}
	return fmt.Errorf("%s is of type %s, not %v", at, is, typ)
}
