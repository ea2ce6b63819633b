// Package yamlfile reads the YAML files that people write for hallpass, in a
// small and strict part of YAML: mappings, lists and strings, one document.
// Anchors, aliases, tags, merge keys, null and repeated or unknown keys are
// refused, and a value that YAML would read as a number, a truth value or
// null has to be quoted where text is meant.
//
// Every error begins with "file:line:column: ", also those that the caller
// makes with [Node.Errorf], and is an [*access.Error] of CodeMalformed.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Bounds that keep a hostile or broken file from costing more than its size.
const (
	MaxSize    = 4 << 20 // bytes
	maxEntries = 50_000  // colons, commas and dashes; about 12,000 users
	maxDepth   = 16      // brackets and dashes inside each other
	maxIndent  = 64      // columns before the first word of a line
)

// blankLines are more empty lines than anybody needs. The lexer takes a square
// of time for them where they are in a text of several lines, before check can
// refuse that.
var blankLines = regexp.MustCompile(`(\n[ \t\r]*){102}`)

// Node is a value in a file, with its place. The zero Node is not valid.
type Node struct {
	file string
	at   *token.Position
	node ast.Node
}

// Parse reads a file that has to hold one mapping. name is what errors call
// it.
func Parse(name string, data []byte) (Node, error) {
	top := Node{file: name, at: &token.Position{Line: 1, Column: 1}}
	if len(data) > MaxSize {
		return Node{}, top.Errorf("file is longer than %d bytes", MaxSize)
	}
	if line, ok := firstInvalid(data); !ok {
		top.at.Line = line
		return Node{}, top.Errorf("line is not valid UTF-8 text")
	}
	if i := blankLines.FindIndex(data); i != nil {
		top.at.Line = 2 + bytes.Count(data[:i[0]], []byte("\n"))
		return Node{}, top.Errorf("more than 100 empty lines begin here")
	}
	tokens := lexer.Tokenize(string(data))
	if err := check(name, tokens); err != nil {
		return Node{}, err
	}
	// Repeated keys are found by Each, which names both places.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return Node{}, syntaxError(top, err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			return Node{}, top.child(doc.Body).Errorf("a second document begins here; there can be only one")
		}
		body = doc.Body
	}
	if body == nil {
		return Node{}, top.Errorf("file is empty")
	}
	return top.child(body), nil
}

// firstInvalid finds the first line that isn't text: broken UTF-8, or a
// control character other than tab and line end.
func firstInvalid(data []byte) (line int, ok bool) {
	line = 1
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && n == 1:
			return line, false
		case r == '\n':
			line++
		case r == '\r' && len(data) > 1 && data[1] == '\n', r == '\t':
		case r < ' ' || r == 0x7f:
			return line, false
		}
		data = data[n:]
	}
	return 0, true
}

// check looks at the words of a file before they are put together. The parser
// calls itself for every level of nesting and for every entry of a mapping, so
// both have to be bounded first, or a file of some megabytes takes gigabytes of
// memory. Lists of nothing and block scalars take a square of time, and our
// files need neither.
func check(name string, tokens token.Tokens) error {
	brackets, dashes, entries, line := 0, 0, 0, 0
	ended := false
	for i, t := range tokens {
		n := Node{file: name, at: t.Position}
		if ended && t.Type != token.CommentType {
			return n.Errorf("a second document begins here; there can be only one")
		}
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
			if t.Position.Column > maxIndent && brackets == 0 {
				return n.Errorf("line is indented by more than %d columns", maxIndent)
			}
		}
		switch t.Type {
		case token.MappingValueType, token.CollectEntryType, token.SequenceEntryType:
			if entries++; entries > maxEntries {
				return n.Errorf("file has more than %d entries", maxEntries)
			}
		}
		switch t.Type {
		case token.InvalidType:
			return n.Errorf("%s", oneLine(t.Error))
		case token.AnchorType, token.AliasType:
			return n.Errorf("anchors and aliases are not supported")
		case token.TagType:
			return n.Errorf("tags are not supported")
		case token.MergeKeyType, token.MappingKeyType:
			return n.Errorf("%q is not supported", strings.TrimSpace(t.Value))
		case token.DirectiveType:
			return n.Errorf("directives are not supported")
		case token.SequenceEntryType:
			dashes++
			if i+1 == len(tokens) || tokens[i+1].Position.Line != t.Position.Line || tokens[i+1].Type == token.CommentType {
				return n.Errorf("list item is missing behind the dash")
			}
		case token.LiteralType, token.FoldedType:
			return n.Errorf("text over several lines is not supported")
		case token.DocumentHeaderType:
			ended = slices.ContainsFunc(tokens[:i], func(t *token.Token) bool { return t.Type != token.CommentType })
			if ended {
				return n.Errorf("a second document begins here; there can be only one")
			}
		case token.DocumentEndType:
			ended = true
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		}
		if brackets+dashes > maxDepth {
			return n.Errorf("lists and mappings are nested more than %d deep", maxDepth)
		}
	}
	return nil
}

func syntaxError(top Node, err error) error {
	var e yaml.Error
	if errors.As(err, &e) {
		return top.at2(e.GetToken()).Errorf("%s", oneLine(e.GetMessage()))
	}
	return top.Errorf("%s", oneLine(err.Error()))
}

// oneLine is what the parser says, safe to show: it may quote the file.
func oneLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return wording.Clip(wording.Line(s), 200)
}

// at2 is the same file at another place.
func (n Node) at2(t *token.Token) Node {
	if t != nil && t.Position != nil {
		n.at = t.Position
	}
	return n
}

func (n Node) child(node ast.Node) Node {
	c := n.at2(first(node))
	c.node = node
	return c
}

// first is the token that a node begins with. A block mapping names its first
// colon instead, and an entry its own.
func first(node ast.Node) *token.Token {
	switch v := node.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return first(v.Values[0])
		}
	case *ast.MappingValueNode:
		return v.Key.GetToken()
	}
	return node.GetToken()
}

// Line is the line that the value begins on, from 1.
func (n Node) Line() int { return n.at.Line }

// Errorf makes an error that begins with the value's place.
func (n Node) Errorf(format string, args ...any) *access.Error {
	return access.Errorf(access.CodeMalformed, "%s:%d:%d: "+format,
		append([]any{n.file, n.at.Line, n.at.Column}, args...)...)
}

// Wrap puts the value's place in front of an error that a check returned. The
// hint is kept. Nil stays nil.
func (n Node) Wrap(err error) error {
	if err == nil {
		return nil
	}
	wrapped := n.Errorf("%s", err.Error())
	if hint := access.HintOf(err); hint != "" {
		wrapped = wrapped.WithHint("%s", hint)
	}
	return wrapped
}

// Each calls fn for every entry of a mapping, in the order of the file. Keys
// are strings and occur once. It ends at the first error.
func (n Node) Each(fn func(key string, at, value Node) error) error {
	var entries []*ast.MappingValueNode
	switch v := n.node.(type) {
	case *ast.MappingNode:
		entries = v.Values
	case *ast.MappingValueNode: // what the parser makes of a single entry
		entries = []*ast.MappingValueNode{v}
	default:
		return n.unexpected("a mapping (name: value)")
	}
	seen := make(map[string]int, len(entries))
	for _, e := range entries {
		at := n.at2(e.Key.GetToken())
		key, err := Node{file: n.file, at: at.at, node: e.Key}.Text()
		if err != nil {
			return err
		}
		if line, ok := seen[key]; ok {
			return at.Errorf("%q is already there, in line %d", wording.Short(key), line)
		}
		seen[key] = at.at.Line
		if err := fn(key, at, at.child(e.Value)); err != nil {
			return err
		}
	}
	return nil
}

// Fields calls the function that a mapping's key names, and refuses keys that
// have none.
func (n Node) Fields(known map[string]func(Node) error) error {
	return n.Each(func(key string, at, value Node) error {
		fn, ok := known[key]
		if !ok {
			return at.Errorf("unknown field %q", wording.Short(key))
		}
		return fn(value)
	})
}

// List calls fn for every item of a list. It ends at the first error.
func (n Node) List(fn func(item Node) error) error {
	seq, ok := n.node.(*ast.SequenceNode)
	if !ok {
		return n.unexpected("a list")
	}
	for _, v := range seq.Values {
		if err := fn(n.child(v)); err != nil {
			return err
		}
	}
	return nil
}

// Networks reads a list of distinct networks, such as 10.1.2.0/24.
func (n Node) Networks() ([]netip.Prefix, error) {
	var list []netip.Prefix
	_, err := n.Texts(func(s string) error {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("%q is not a network such as 10.1.2.0/24", wording.Short(s))
		}
		list = append(list, p.Masked())
		return nil
	})
	return list, err
}

// Texts reads a list of distinct strings, each of which check accepts.
func (n Node) Texts(check func(string) error) ([]string, error) {
	list := []string{}
	seen := map[string]bool{}
	err := n.List(func(item Node) error {
		s, err := item.Text()
		if err != nil {
			return err
		}
		if err := check(s); err != nil {
			return item.Wrap(err)
		}
		if seen[s] {
			return item.Errorf("%q is there twice", wording.Short(s))
		}
		seen[s] = true
		list = append(list, s)
		return nil
	})
	return list, err
}

// IsMapping says whether the value is a mapping, where text may stand as well.
func (n Node) IsMapping() bool {
	switch n.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// Text is the value of a string.
func (n Node) Text() (string, error) {
	switch v := n.node.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return "", n.Errorf("%s is not text for YAML; write it in quotes", oneLine(v.GetToken().Value))
	}
	return "", n.unexpected("text")
}

// Bool is the value of true or false.
func (n Node) Bool() (bool, error) {
	if v, ok := n.node.(*ast.BoolNode); ok {
		return v.Value, nil
	}
	return false, n.unexpected("true or false")
}

// Checked is Text for a string that has to pass check.
func (n Node) Checked(check func(string) error) (string, error) {
	s, err := n.Text()
	if err != nil {
		return "", err
	}
	return s, n.Wrap(check(s))
}

func (n Node) unexpected(want string) error {
	switch n.node.(type) {
	case nil, *ast.NullNode:
		return n.Errorf("value is missing; it has to be %s", want)
	case *ast.MappingNode, *ast.MappingValueNode:
		return n.Errorf("this is a mapping; it has to be %s", want)
	case *ast.SequenceNode:
		return n.Errorf("this is a list; it has to be %s", want)
	}
	return n.Errorf("this has to be %s", want)
}
