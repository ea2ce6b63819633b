package audit

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// ExportJSONLines writes the selected events, one a line:
// {"index":N,"event":{…}}. The value of event is the leaf, byte for byte.
func (r *Reader) ExportJSONLines(ctx context.Context, w io.Writer, q Query) error {
	for rec, err := range r.Events(ctx, q) {
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "{\"index\":%d,\"event\":%s}\n", rec.Index, rec.Leaf); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	return nil
}

// csvHeader names the columns of ExportCSV. New ones are only ever added at
// the end.
var csvHeader = []string{
	"index", "time", "type", "request", "requester", "actor", "resource", "state", "code", "why",
	"kind", "serial", "ca", "principals", "not_before", "not_after", "policy", "directory", "catalog", "leaf_sha256",
}

// ExportCSV writes the selected events as CSV (RFC 4180) under a header. It is
// the short form, for spreadsheets: statements and files are only in the JSON
// Lines. A cell that a spreadsheet would take for a formula gets an
// apostrophe in front.
func (r *Reader) ExportCSV(ctx context.Context, w io.Writer, q Query) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	if err := out.Write(csvHeader); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	for rec, err := range r.Events(ctx, q) {
		if err != nil {
			return err
		}
		cells := csvCells(rec)
		for i := range cells {
			cells[i] = Harmless(cells[i])
		}
		if err := out.Write(cells); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func csvCells(rec Record) []string {
	e := rec.Event
	h := e.Handle
	if h == nil && e.Credential != nil {
		h = &e.Credential.Handle
	}
	cells := []string{
		strconv.FormatInt(rec.Index, 10), e.Time.Format("2006-01-02T15:04:05.000Z"), e.Type, e.Request, e.Requester, e.Actor, e.Resource,
		string(e.State), string(e.Code), e.Why,
	}
	if h != nil {
		cells = append(cells, h.Kind, strconv.FormatUint(h.Serial, 10), h.CA, strings.Join(h.Principals, " "),
			h.NotBefore.UTC().Format(time.RFC3339), h.NotAfter.UTC().Format(time.RFC3339))
	} else {
		cells = append(cells, "", "", "", "", "", "")
	}
	if d := e.digests(); d != nil {
		cells = append(cells, d.Policy, d.Directory, d.Catalog)
	} else {
		cells = append(cells, "", "", "")
	}
	return append(cells, strings.TrimPrefix(digestOf(string(rec.Leaf)), "sha256:"))
}

// Harmless keeps spreadsheets from running what others wrote: they take a
// cell that begins so for a formula (OWASP, CSV Injection).
func Harmless(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r\n|%", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

// MarshalIndent writes a proof as people keep it, ending in a newline.
func (p Proof) MarshalIndent() ([]byte, error) {
	data, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode proof: %w", err)
	}
	return append(data, '\n'), nil
}
