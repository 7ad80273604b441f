//! What a start can meet at a database server, by its SQL state, and what to do about it.

/// What to do about an error that the server answers with while the store is opened;
/// `None` if there is no advice beyond what the server says.
pub(super) fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "42501" => {
            "the role of --store lacks a privilege: let it own its database or schema (ALTER DATABASE … OWNER TO …), or \
             GRANT USAGE, CREATE ON SCHEMA … TO it, and own the tables that are there"
        }
        "28000" | "28P01" => {
            "PostgreSQL refuses the user or the password of --store: check both, and pg_hba.conf on the server"
        }
        "3D000" => "there is no such database: make it with CREATE DATABASE, or correct the name in --store",
        "3F000" => {
            "no schema of the search path exists, so there is nowhere to make tables: CREATE SCHEMA, or correct \
             search_path in --store or of the role"
        }
        "25006" => {
            "the database takes no writes (default_transaction_read_only is on, or it is a standby): give the \
             address of a primary by --store, or set it to off for the role"
        }
        "53300" => {
            "PostgreSQL has no connection left: raise max_connections, or end sessions that nobody needs"
        }
        "53100" => "the disk of PostgreSQL is full: make room there",
        "55P03" | "57014" | "40P01" => {
            "somebody holds a lock on the tables: look for long transactions in pg_stat_activity and end them"
        }
        "57P03" => "PostgreSQL starts up, or shuts down: wait until it takes connections",
        "42P07" | "42710" | "42701" => {
            "tables of the same names exist and are not hookwire's: choose another database, or another schema by \
             ?options=-csearch_path%3DNAME in --store"
        }
        "22023" | "42704" => {
            "PostgreSQL does not know a setting that hookwire gives its sessions: use PostgreSQL 15 or later, \
             directly and not through a pooler"
        }
        _ if code.starts_with("08") => {
            "the connection was refused or lost: check --store, and that the server runs"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_is_likely_to_meet_has_advice() {
        let likely = [
            "42501", "28P01", "28000", "3D000", "3F000", "25006", "53300", "53100", "55P03", "57P03",
            "42P07", "08006",
        ];
        for code in likely {
            assert!(advice(code).is_some(), "{code}");
        }
        assert_eq!(advice("XX000"), None);
    }
}
