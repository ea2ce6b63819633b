package lookup

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// picker takes fields out of a JSON answer: each by a path such as
// "fields.status.name", in which a number is a place in a list.
func picker(fields map[string]string) func([]byte, time.Time) (any, error) {
	return func(body []byte, _ time.Time) (any, error) {
		answer, err := decode(body)
		if err != nil {
			return nil, err
		}
		out := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			v, ok := follow(answer, fields[name])
			if !ok {
				return nil, failf("its answer has no %s", fields[name])
			}
			out[name] = v
		}
		return out, nil
	}
}

func follow(v any, path string) (any, bool) {
	for part := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[part]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(x) {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// people says who of the other system is who in the directory. Who can't be
// told is nobody.
type people struct {
	users  map[string]string // by name or e-mail address, as they are there
	domain string            // whose e-mail addresses are directory names in front of the @; "" for none
}

// name is the directory's name of somebody who goes by any of these names.
func (p people) name(names ...string) (string, bool) {
	for _, n := range names {
		if user, ok := p.users[n]; ok {
			return user, true
		}
	}
	for _, n := range names {
		local, domain, ok := strings.Cut(strings.ToLower(n), "@")
		if ok && p.domain != "" && domain == p.domain && local != "" {
			return local, true
		}
	}
	return "", false
}

// onCall is the value of a look-up of who is on call: user is the first of
// users. Where nobody is, there is no user.
func onCall(users []string) any {
	out := map[string]any{"users": []string{}}
	if len(users) > 0 {
		out["user"], out["users"] = users[0], slices.Compact(users)
	}
	return out
}

// shift is one entry of PagerDuty's list.
type shift struct {
	User struct {
		ID      string `json:"id"`
		Summary string `json:"summary"`
		Name    string `json:"name"`
		Email   string `json:"email"`
	} `json:"user"`
	Level int        `json:"escalation_level"`
	Start *time.Time `json:"start"` // null: always
	End   *time.Time `json:"end"`
}

// pagerDuty reads who is on call from what PagerDuty answers to GET /oncalls
// (REST API v2), or whoever writes the same.
func (p people) pagerDuty(body []byte, now time.Time) (any, error) {
	var answer struct {
		OnCalls *[]shift `json:"oncalls"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.OnCalls == nil {
		return nil, failf("its answer is not a list of oncalls")
	}
	on := *answer.OnCalls
	// The first level comes first.
	slices.SortStableFunc(on, func(a, b shift) int { return cmp.Compare(a.Level, b.Level) })
	var users []string
	for _, o := range on {
		if o.Start != nil && now.Before(*o.Start) || o.End != nil && !now.Before(*o.End) {
			continue
		}
		if name, ok := p.name(o.User.Email, o.User.Summary, o.User.Name, o.User.ID); ok && !slices.Contains(users, name) {
			users = append(users, name)
		}
	}
	return onCall(users), nil
}
