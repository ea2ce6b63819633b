package access

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Fact is what one look-up said, or that it failed.
type Fact struct {
	Value  json.RawMessage `json:"value,omitempty"`  // JSON, as conditions see it
	Failed string          `json:"failed,omitempty"` // why there is no value; one line
	Time   time.Time       `json:"time"`             // when it was asked, whole seconds
}

// value is the value as conditions see it, false if there is none.
func (f Fact) value() (v any, ok bool) {
	if f.Failed != "" || json.Unmarshal(f.Value, &v) != nil {
		return nil, false
	}
	return v, true
}

// Facts are what look-ups said of one request, by their names: the context that
// a ruling was made in. Whoever judges again years later judges by these.
type Facts map[string]Fact

// Unknown are the names of those without a value, sorted.
func (f Facts) Unknown() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if _, ok := f[name].value(); !ok {
			out = append(out, name)
		}
	}
	return out
}

// Failed says of each that failed why, in the order of their names.
func (f Facts) Failed() []string {
	var out []string
	for _, name := range f.Unknown() {
		out = append(out, "look-up "+name+" failed: "+f[name].Failed)
	}
	return out
}

// Values are the facts as conditions see them. One without a value isn't there.
func (f Facts) Values() map[string]any {
	if f == nil {
		return nil
	}
	out := map[string]any{}
	for name, fact := range f {
		if v, ok := fact.value(); ok {
			out[name] = v
		}
	}
	return out
}
