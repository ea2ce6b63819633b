package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"hallpass/access"
	"hallpass/statement"
)

// ocsfVersion is the version of the schema that ExportOCSF writes
// (https://schema.ocsf.io/1.5.0).
const ocsfVersion = "1.5.0"

// Classes of OCSF, all of the category Identity & Access Management (3).
const (
	ocsfIAM            = 3
	ocsfAccountChange  = 3001
	ocsfAuthentication = 3002
	ocsfEntity         = 3004
	ocsfUserAccess     = 3005
)

// Severities and statuses of OCSF.
const (
	ocsfInformational = 1
	ocsfLow           = 2
	ocsfMedium        = 3
	ocsfHigh          = 4
	ocsfSuccess       = 1
	ocsfFailure       = 2
	ocsfOther         = 99
)

// ocsfEvent is an event of one of these classes. What a class doesn't have is
// left out.
type ocsfEvent struct {
	ActivityID   int            `json:"activity_id"`
	Activity     string         `json:"activity_name"`
	CategoryUID  int            `json:"category_uid"`
	Category     string         `json:"category_name"`
	ClassUID     int            `json:"class_uid"`
	Class        string         `json:"class_name"`
	TypeUID      int            `json:"type_uid"`
	SeverityID   int            `json:"severity_id"`
	StatusID     int            `json:"status_id"`
	StatusCode   string         `json:"status_code,omitempty"`
	StatusDetail string         `json:"status_detail,omitempty"`
	Time         int64          `json:"time"` // milliseconds since 1970
	Message      string         `json:"message"`
	Metadata     ocsfMetadata   `json:"metadata"`
	Actor        *ocsfActor     `json:"actor,omitempty"`
	User         *ocsfUser      `json:"user,omitempty"`
	Privileges   []string       `json:"privileges,omitempty"`
	Resources    []ocsfNamed    `json:"resources,omitempty"`
	Entity       *ocsfNamed     `json:"entity,omitempty"`
	Comment      string         `json:"comment,omitempty"`
	Protocol     string         `json:"auth_protocol,omitempty"`
	ProtocolID   int            `json:"auth_protocol_id,omitempty"`
	Remote       bool           `json:"is_remote,omitempty"`
	Session      *ocsfNamed     `json:"session,omitempty"`
	Source       *ocsfEndpoint  `json:"src_endpoint,omitempty"`
	Destination  *ocsfEndpoint  `json:"dst_endpoint,omitempty"`
	Unmapped     map[string]any `json:"unmapped,omitempty"`
}

type ocsfMetadata struct {
	Version     string    `json:"version"`
	Product     ocsfNamed `json:"product"`
	LogName     string    `json:"log_name"`
	UID         string    `json:"uid"`
	Sequence    int64     `json:"sequence"`
	Code        string    `json:"event_code"`
	Correlation string    `json:"correlation_uid,omitempty"`
}

type ocsfNamed struct {
	Name   string `json:"name,omitempty"`
	Vendor string `json:"vendor_name,omitempty"`
	Type   string `json:"type,omitempty"`
	TypeID int    `json:"type_id,omitempty"`
	UID    string `json:"uid,omitempty"`
}

type ocsfActor struct {
	User ocsfUser `json:"user"`
}

type ocsfUser struct {
	Name   string     `json:"name"`
	TypeID int        `json:"type_id"`
	Login  *ocsfNamed `json:"account,omitempty"`
}

type ocsfEndpoint struct {
	Hostname string `json:"hostname,omitempty"`
	IP       string `json:"ip,omitempty"`
	Port     int    `json:"port,omitempty"`
}

// ocsfKind says what an event type is in OCSF.
type ocsfKind struct {
	class, activity int
	name            string // of the activity
	severity        int
	failed          bool
	entity          string // with class ocsfEntity: its type
}

// ocsfKinds maps the types. What isn't in it is an Update of the request it is
// about, or of the log.
var ocsfKinds = map[string]ocsfKind{
	RulebookChanged:    {ocsfEntity, 3, "Update", ocsfLow, false, ""},
	RulebookBroken:     {ocsfEntity, 3, "Update", ocsfHigh, true, "rulebook"},
	RequestReceived:    {ocsfEntity, 1, "Create", ocsfInformational, false, "access request"},
	RequestLimited:     {ocsfEntity, 3, "Update", ocsfLow, true, "access request"},
	RequestRuled:       {ocsfEntity, 3, "Update", ocsfInformational, false, "access request"},
	RequestEscalated:   {ocsfEntity, 3, "Update", ocsfLow, false, "access request"},
	DecisionAccepted:   {ocsfEntity, 3, "Update", ocsfInformational, false, "access request"},
	StatementRefused:   {ocsfEntity, 3, "Update", ocsfLow, true, "access request"},
	CredentialPrepared: {ocsfEntity, 1, "Create", ocsfInformational, false, "credential"},
	CredentialIssued:   {ocsfUserAccess, 1, "Assign Privileges", ocsfInformational, false, ""},
	CredentialRefused:  {ocsfEntity, 1, "Create", ocsfMedium, true, "credential"},
	RequestDenied:      {ocsfEntity, 3, "Update", ocsfLow, true, "access request"},
	RequestTimedOut:    {ocsfEntity, 3, "Update", ocsfLow, true, "access request"},
	RequestCancelled:   {ocsfEntity, 3, "Update", ocsfInformational, false, "access request"},
	GrantExpired:       {ocsfUserAccess, 2, "Revoke Privileges", ocsfInformational, false, ""},
	GrantReleased:      {ocsfUserAccess, 2, "Revoke Privileges", ocsfInformational, false, ""},
	GrantRevoked:       {ocsfUserAccess, 2, "Revoke Privileges", ocsfMedium, false, ""},
	EmergencyGranted:   {ocsfEntity, 3, "Update", ocsfHigh, false, "access request"},
	ReviewOpened:       {ocsfEntity, 1, "Create", ocsfMedium, false, "review"},
	ReviewSigned:       {ocsfEntity, 3, "Update", ocsfInformational, false, "review"},
	ReviewOverdue:      {ocsfEntity, 3, "Update", ocsfHigh, true, "review"},
	ReviewDone:         {ocsfEntity, 3, "Update", ocsfInformational, false, "review"},
	LockSet:            {ocsfEntity, ocsfOther, "Lock", ocsfHigh, false, ""},
	LockLifted:         {ocsfEntity, ocsfOther, "Unlock", ocsfMedium, false, ""},
	DelegationGiven:    {ocsfEntity, 1, "Create", ocsfMedium, false, "delegation"},
	DelegationRevoked:  {ocsfEntity, 4, "Delete", ocsfInformational, false, "delegation"},
	HostEnrolled:       {ocsfEntity, 1, "Create", ocsfLow, false, "host"},
	HostCertified:      {ocsfEntity, 3, "Update", ocsfInformational, false, "host"},
	SessionOpened:      {ocsfAuthentication, 1, "Logon", ocsfInformational, false, ""},
	SessionClosed:      {ocsfAuthentication, 2, "Logoff", ocsfInformational, false, ""},
	SessionEnded:       {ocsfAuthentication, 2, "Logoff", ocsfLow, false, ""},
	SessionRefused:     {ocsfAuthentication, 1, "Logon", ocsfHigh, false, ""},
	SweepOrphan:        {ocsfEntity, 3, "Update", ocsfHigh, false, "access request"},
	SweepStray:         {ocsfEntity, 3, "Update", ocsfHigh, false, "credential"},
	SweepRevoked:       {ocsfEntity, 4, "Delete", ocsfMedium, false, "credential"},
	SweepLease:         {ocsfEntity, 3, "Update", ocsfHigh, false, "credential"},
	SweepStuck:         {ocsfEntity, 3, "Update", ocsfHigh, true, "credential"},
}

var ocsfClasses = map[int]string{
	ocsfAccountChange: "Account Change", ocsfAuthentication: "Authentication", ocsfEntity: "Entity Management", ocsfUserAccess: "User Access Management",
}

// ExportOCSF writes the selected events as JSON Lines in the Open
// Cybersecurity Schema Framework, for a SIEM. It is a view: metadata.sequence
// and unmapped.leaf_sha256 lead back to the event that it is of.
func (r *Reader) ExportOCSF(ctx context.Context, w io.Writer, q Query) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	for rec, err := range r.Events(ctx, q) {
		if err != nil {
			return err
		}
		if err := out.Encode(ocsfOf(rec, r.PublicKey())); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	return nil
}

func ocsfOf(rec Record, log string) ocsfEvent {
	e := rec.Event
	kind, ok := ocsfKinds[e.Type]
	if !ok {
		kind = ocsfKind{ocsfEntity, 3, "Update", ocsfInformational, e.Code != "", "access request"}
	}
	out := ocsfEvent{
		ActivityID: kind.activity, Activity: kind.name, CategoryUID: ocsfIAM, Category: "Identity & Access Management", ClassUID: kind.class,
		SeverityID: kind.severity, StatusID: ocsfSuccess, StatusCode: string(e.Code), Time: e.Time.UnixMilli(), Message: e.Type,
		Metadata: ocsfMetadata{
			Version: ocsfVersion, Product: ocsfNamed{Name: "hallpass", Vendor: "hallpass"}, LogName: log, UID: fmt.Sprintf("%s/%d", log, rec.Index),
			Sequence: rec.Index, Code: e.Type, Correlation: e.Request,
		},
		Unmapped: map[string]any{"leaf_sha256": strings.TrimPrefix(digestOf(string(rec.Leaf)), "sha256:")},
	}
	if e.Why != "" {
		out.Message += ": " + e.Why
	}
	if kind.failed {
		out.StatusID, out.StatusDetail = ocsfFailure, e.Why
	}
	if e.Actor != "" {
		out.Actor = &ocsfActor{user(e.Actor)}
	}
	if e.State != "" {
		out.Unmapped["state"] = e.State
	}
	if d := e.digests(); d != nil {
		out.Unmapped["digests"] = *d
	}
	switch out.ClassUID {
	case ocsfUserAccess:
		out.access(&e)
	case ocsfAuthentication:
		out.session(&e)
	case ocsfEntity:
		out.entity(rec, kind.entity)
	}
	out.Class, out.TypeUID = ocsfClasses[out.ClassUID], out.ClassUID*100+out.ActivityID
	return out
}

// ocsfUnknown stands where the class asks for a name and the event has none.
const ocsfUnknown = "unknown"

func user(name string) ocsfUser {
	if name == "" {
		return ocsfUser{Name: ocsfUnknown}
	}
	return ocsfUser{Name: name, TypeID: 1}
}

// access fills in what User Access Management has.
func (o *ocsfEvent) access(e *Event) {
	u, resource := user(e.Requester), cmp.Or(e.Resource, ocsfUnknown)
	o.User = &u
	o.Resources = []ocsfNamed{{Name: resource, Type: "hallpass resource"}}
	o.Privileges = []string{resource}
	if e.Credential == nil {
		return
	}
	if p := e.Credential.Handle.Principals; len(p) > 0 {
		o.Privileges = p
	} else if r, err := statement.ParseRequest([]byte(e.Evidence.Request.Payload)); err == nil && len(r.Actions) > 0 {
		o.Privileges = r.Actions
	}
	h := e.Credential.Handle
	o.Unmapped["not_before"], o.Unmapped["not_after"] = h.NotBefore.UnixMilli(), h.NotAfter.UnixMilli()
	if h.Serial > 0 {
		o.Unmapped["serial"], o.Unmapped["ca"] = h.Serial, h.CA
	}
}

// session fills in what Authentication has.
func (o *ocsfEvent) session(e *Event) {
	u := user(e.Requester)
	o.User, o.Remote, o.Actor = &u, true, nil
	o.Protocol, o.ProtocolID = "SSH certificate", ocsfOther
	o.Destination = &ocsfEndpoint{Hostname: cmp.Or(e.Actor, ocsfUnknown)}
	if e.Statement == nil {
		return
	}
	s, err := statement.ParseSession([]byte(e.Statement.Payload))
	if err != nil {
		return
	}
	o.User.Login = &ocsfNamed{Name: s.Login}
	o.Session = &ocsfNamed{UID: s.Session}
	if at, err := netip.ParseAddrPort(s.Source); err == nil {
		o.Source = &ocsfEndpoint{IP: at.Addr().String(), Port: int(at.Port())}
	}
}

// entity fills in what Entity Management has, or makes a lock of a user what
// it is there: Account Change.
func (o *ocsfEvent) entity(rec Record, typ string) {
	e := rec.Event
	one := ocsfNamed{Type: typ, UID: e.Request, Name: e.Resource}
	switch {
	case e.File != nil:
		one = ocsfNamed{Type: e.File.Name, UID: e.File.Digest, Name: e.File.Name}
	case e.Host != nil:
		one = ocsfNamed{Type: typ, Name: e.Host.Name}
	case e.Type == LockSet || e.Type == LockLifted:
		if e.Statement == nil {
			break
		}
		l, err := statement.ParseLock([]byte(e.Statement.Payload))
		if err != nil {
			break
		}
		one = ocsfNamed{Type: l.Kind, Name: l.Name}
		o.Comment = l.Reason
		if l.Kind == access.LockUser {
			u := user(l.Name)
			o.ClassUID, o.User, o.Comment = ocsfAccountChange, &u, ""
			if o.ActivityID = 9; e.Type == LockLifted {
				o.ActivityID = 12
			}
			return
		}
	}
	if e.Type == DelegationGiven || e.Type == DelegationRevoked {
		if d, err := statement.ParseDelegation(payloadOf(rec)); err == nil {
			one.UID, one.Name, o.Comment = cmp.Or(d.Delegation, d.ID), "to "+d.To, d.Reason
		}
	}
	if one.UID == "" && one.Name == "" {
		one.UID = o.Metadata.UID // of a message that says nothing that can be relied on
	}
	one.Type, one.TypeID = cmp.Or(one.Type, ocsfUnknown), ocsfOther // none of those that OCSF knows
	o.Entity = &one
	if e.Type == RequestReceived && e.Statement != nil {
		if r, err := statement.ParseRequest([]byte(e.Statement.Payload)); err == nil {
			o.Comment = r.Reason
		}
	}
}
