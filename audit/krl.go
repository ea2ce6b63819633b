package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// KRL is a signed key revocation list: the bytes that hosts load, and the
// signature over exactly them.
type KRL struct {
	Version   uint64
	List      []byte
	Signature string // armored SSHSIG by an SSH CA, for krl.Open
}

// DraftKRL collects what a new key revocation list has to say, for the issuer
// whose CA key is given to sign and to hand to PublishKRL. It names each SSH
// certificate that could have been made and whose request ended before the
// certificate does, whether it is known to be out or not. An entry leaves once
// no host's clock can be so far behind that it would still let it in.
//
// The version is higher than any before, from whatever process, and what was
// in the ledger when a version was taken is in every later one. It also is at
// least the number of milliseconds since 1970, so that a ledger that was
// restored from a copy doesn't fall behind the hosts.
func (l *Log) DraftKRL(ctx context.Context, ca ssh.PublicKey) (krl.List, error) {
	own := ssh.FingerprintSHA256(ca)
	return update(ctx, l, func(t *tx) (krl.List, error) {
		none := krl.List{}
		t.write("INSERT INTO cas (fingerprint, key) VALUES (?, ?) ON CONFLICT DO NOTHING", own, statement.MarshalKey(ca))
		now := l.now()
		var taken int64
		if _, err := t.find([]any{&taken}, `INSERT INTO krl (id, taken, version, list, signature) VALUES (1, ?, 0, ?, '')
			ON CONFLICT (id) DO UPDATE SET taken = CASE WHEN krl.taken < excluded.taken THEN excluded.taken ELSE krl.taken + 1 END RETURNING taken`,
			now.UnixMilli(), []byte{}); err != nil {
			return none, err
		}
		list := krl.List{Version: uint64(taken), Generated: now.UTC().Truncate(time.Second)}
		// What has run out is left out.
		past, err := t.past(l)
		if err != nil {
			return none, err
		}
		if list.CAs, err = t.revoked(past.Add(-access.ClockSkew)); err == nil && list.Entries() > fillFrom {
			err = t.fill(list.CAs)
		}
		return list, err
	})
}

// past is what is over by our clock and by the database's: a machine whose clock
// is ahead takes for over what isn't.
func (t *tx) past(l *Log) (time.Time, error) {
	now := l.now()
	if !l.asksClock() {
		return now, nil
	}
	var at int64
	if _, err := t.find([]any{&at}, l.db.clock()); err != nil {
		return now, err
	}
	if second := time.UnixMilli(at); second.Before(now) {
		return second, nil
	}
	return now, nil
}

// asksClock says whether the database has a clock to hold ours against.
func (l *Log) asksClock() bool { return l.doubted && l.db.clock() != "" }

// Unlisted says whether no list names a certificate, or none does any more: its
// grant ran to its end, or no host's clock can be so far behind that it would still
// let it in, and the database's clock agrees where it has one.
func (l *Log) Unlisted(ctx context.Context, h access.Handle) (bool, error) {
	entry, _, err := l.Entry(ctx, h.Request)
	if err != nil || entry.Ended == access.StateExpired {
		return err == nil, err
	}
	leaves := h.Over().Add(access.ClockSkew)
	if past := !l.now().Before(leaves); !past || !l.asksClock() {
		return past, nil
	}
	var now int64
	if err := l.Reader.db.QueryRowContext(ctx, l.db.clock()).Scan(&now); err != nil {
		return false, fmt.Errorf("ask the database for the time: %w", explain(err))
	}
	return !time.UnixMilli(now).Before(leaves), nil
}

// fillFrom is how many entries a list has before it names serials whose
// certificates have run out, only to be shorter. A short one says what was
// taken back and nothing else.
const fillFrom = 1000

// fill joins what is revoked where nothing between is open.
func (t *tx) fill(cas []krl.CA) error {
	used := map[string][]uint64{}
	var extended []string
	if err := t.read(func(row scanner) error {
		var ca, extends string
		var serial int64
		if err := row.Scan(&ca, &serial, &extends); err != nil {
			return err
		}
		used[ca] = append(used[ca], uint64(serial))
		if extends != "" {
			extended = append(extended, extends)
		}
		return nil
	}, openQuery); err != nil {
		return err
	}
	// What an open grant extends has run out, and the sessions that it opened go
	// on. It can itself be an extension.
	for seen := map[string]bool{}; len(extended) > 0; {
		request := extended[0]
		extended = extended[1:]
		if seen[request] {
			continue
		}
		seen[request] = true
		entry, found, err := t.entry(request)
		if err != nil {
			return err
		}
		if h := entry.Handle; found && h != nil {
			used[h.CA] = append(used[h.CA], h.Serial)
			if h.Extends != "" {
				extended = append(extended, h.Extends)
			}
		}
	}
	for i, ca := range cas {
		serials := used[ssh.FingerprintSHA256(ca.Key)]
		slices.Sort(serials)
		cas[i].Ranges = krl.Fill(ca.Ranges, serials)
	}
	return nil
}

// openQuery has the condition of the index ledger_open.
const openQuery = `SELECT json_extract(handle, '$.ca'), json_extract(handle, '$.serial'), coalesce(json_extract(handle, '$.extends'), '') FROM ledger
	WHERE ended = '' AND handle <> '' AND json_extract(handle, '$.serial') > 0`

// revokedQuery has the conditions of the index ledger_revoked, so that it
// reads of the ledger what it lists and nothing else.
//
// Its first part is those that haven't run out, its second those that have and
// whose sessions may still be open, of which there are few.
const revokedQuery = `SELECT json_extract(handle, '$.ca'), json_extract(handle, '$.serial') FROM ledger
	WHERE ended <> '' AND ended <> 'expired' AND handle <> ''
	AND json_extract(handle, '$.not_after') > ?1 AND json_extract(handle, '$.serial') > 0
	UNION ALL SELECT json_extract(handle, '$.ca'), json_extract(handle, '$.serial') FROM ledger
	WHERE ended <> '' AND ended <> 'expired' AND handle <> ''
	AND json_extract(handle, '$.not_after') > ?2 AND json_extract(handle, '$.not_after') <= ?1
	AND json_extract(handle, '$.serial') > 0 AND json_extract(handle, '$.until') > ?1
	ORDER BY 1, 2`

// revoked lists the certificates that were taken back and end after a time, or
// whose sessions do.
func (t *tx) revoked(after time.Time) ([]krl.CA, error) {
	var names []string
	serials := map[string][]uint64{}
	if err := t.read(func(row scanner) error {
		var ca string
		var serial int64
		if err := row.Scan(&ca, &serial); err != nil {
			return err
		}
		if len(names) == 0 || names[len(names)-1] != ca {
			names = append(names, ca)
		}
		serials[ca] = append(serials[ca], uint64(serial))
		return nil
	}, revokedQuery, after.UTC().Format(time.RFC3339), after.Add(-access.MaxGrace).UTC().Format(time.RFC3339)); err != nil {
		return nil, err
	}
	var cas []krl.CA
	for _, ca := range names {
		key, err := t.caKey(ca)
		if err != nil {
			return nil, err
		}
		if key != nil {
			cas = append(cas, krl.CA{Key: key, Ranges: krl.Join(serials[ca]...)})
		}
	}
	return cas, nil
}

// caKey finds a CA's key by its fingerprint. Issuers leave theirs with their
// first list, before they issue. Of one that issued before there were lists, a
// certificate has it; where there is no certificate, none is out that could
// be revoked, and the key is nil.
func (t *tx) caKey(fingerprint string) (ssh.PublicKey, error) {
	var text, credential string
	found, err := t.find([]any{&text}, "SELECT key FROM cas WHERE fingerprint = ?", fingerprint)
	if err != nil {
		return nil, err
	}
	if !found {
		found, err = t.find([]any{&credential}, "SELECT credential FROM ledger WHERE credential <> '' AND json_extract(handle, '$.ca') = ? LIMIT 1", fingerprint)
		if err != nil || !found {
			return nil, err
		}
		var c access.Credential
		if json.Unmarshal([]byte(credential), &c) == nil {
			if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.Certificate)); err == nil {
				if cert, ok := key.(*ssh.Certificate); ok {
					text = statement.MarshalKey(cert.SignatureKey)
				}
			}
		}
	}
	key, err := statement.ParseKey(text)
	if err != nil || ssh.FingerprintSHA256(key) != fingerprint {
		return nil, broken("the key of the SSH CA %s is not in it", clip(fingerprint))
	}
	return key, nil
}

// PublishKRL makes a signed list the one that KRL returns, unless there is a
// later one, which then says all that this one does. CodeUnverified: what is there isn't what
// it says, and the list isn't in force.
func (l *Log) PublishKRL(ctx context.Context, k KRL) error {
	_, err := update(ctx, l, func(t *tx) (struct{}, error) {
		none := struct{}{}
		var taken, version int64
		if _, err := t.find([]any{&taken, &version}, "SELECT taken, version FROM krl"); err != nil {
			return none, err
		}
		if taken < int64(k.Version) {
			return none, broken("version %d of the key revocation list was taken, and now it says %d", k.Version, taken)
		}
		if version > taken {
			return none, broken("its key revocation list is of version %d, and only %d was taken", version, taken)
		}
		if version < int64(k.Version) {
			t.write("UPDATE krl SET version = ?, list = ?, signature = ?", int64(k.Version), k.List, k.Signature)
			return none, nil
		}
		var later KRL
		if _, err := t.find([]any{&later.List, &later.Signature}, "SELECT list, signature FROM krl"); err != nil {
			return none, err
		}
		var keys []ssh.PublicKey
		if err := t.read(func(row scanner) error {
			var text string
			if err := row.Scan(&text); err != nil {
				return err
			}
			if key, err := statement.ParseKey(text); err == nil { // another one may have signed
				keys = append(keys, key)
			}
			return nil
		}, "SELECT key FROM cas"); err != nil {
			return none, err
		}
		if list, err := krl.Open(later.List, later.Signature, keys); err != nil {
			return none, broken("its key revocation list: %v", err)
		} else if int64(list.Version) != version {
			return none, broken("its key revocation list is of version %d, not of the %d that it says", list.Version, version)
		}
		return none, nil
	})
	return err
}

// KRL returns the latest list, or CodeUnavailable if no issuer has published
// one yet.
func (r *Reader) KRL(ctx context.Context) (KRL, error) {
	var k KRL
	var version int64
	err := r.db.QueryRowContext(ctx, "SELECT version, list, signature FROM krl WHERE version > 0").Scan(&version, &k.List, &k.Signature)
	if errors.Is(err, sql.ErrNoRows) {
		return KRL{}, access.Errorf(access.CodeUnavailable, "there is no key revocation list yet").
			WithHint("an issuer makes the first one when it starts: hallpass worker --role issuer:ssh")
	} else if err != nil {
		return KRL{}, fmt.Errorf("read key revocation list: %w", explain(err))
	}
	k.Version = uint64(version)
	return k, nil
}

// KRLVersion is the version that KRL would return, 0 if there is none. It is
// cheap enough to be asked many times a second.
func (r *Reader) KRLVersion(ctx context.Context) (uint64, error) {
	var version int64
	err := r.db.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM krl").Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read key revocation list: %w", explain(err))
	}
	return uint64(version), nil
}

// CAKeys are the public keys of the SSH CAs that issuers have had, the one in use
// and those before it: an issuer leaves its own before it issues.
func (r *Reader) CAKeys(ctx context.Context) ([]ssh.PublicKey, error) {
	rows, err := r.db.QueryContext(ctx, "SELECT key FROM cas ORDER BY fingerprint")
	if err != nil {
		return nil, fmt.Errorf("read SSH CAs: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	var keys []ssh.PublicKey
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("read SSH CAs: %w", explain(err))
		}
		key, err := statement.ParseKey(text)
		if err != nil {
			return nil, broken("what is there as the key of an SSH CA is none")
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}

// CA is what the ledger knows of an SSH CA.
type CA struct {
	Signed bool      // an issuer has had its key
	Live   int64     // certificates that may still let somebody in
	Until  time.Time // when the last of them ends; zero if there are none
}

// CA looks an SSH CA up by its key's fingerprint.
func (r *Reader) CA(ctx context.Context, fingerprint string) (CA, error) {
	var known, until string
	var c CA
	err := r.db.QueryRowContext(ctx, "SELECT fingerprint FROM cas WHERE fingerprint = ?", fingerprint).Scan(&known)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return CA{}, fmt.Errorf("read SSH CAs: %w", explain(err))
	default:
		c.Signed = true
	}
	err = r.db.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MAX(json_extract(handle, '$.not_after')), '') FROM ledger
		WHERE ended = '' AND handle <> '' AND json_extract(handle, '$.serial') > 0 AND json_extract(handle, '$.ca') = ?`, fingerprint).Scan(&c.Live, &until)
	if err != nil {
		return CA{}, fmt.Errorf("count certificates: %w", explain(err))
	}
	if until != "" {
		if c.Until, err = time.Parse(time.RFC3339, until); err != nil {
			return CA{}, fmt.Errorf("count certificates: %w", err)
		}
	}
	return c, nil
}
