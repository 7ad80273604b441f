//! What is sealed opens at its place and in its version, and nowhere else.

use sqlx::{Connection as _, Executor as _};

use super::{House, NOW, TENANT};
use crate::{
    domain::{Endpoint, EndpointKey, EndpointState, Header},
    store::{
        Config, Edited, Location,
        private::{Private, place},
    },
    vault::is_versioned,
};

const ALL: &str =
    "DELETE FROM endpoints WHERE id = 'a'; INSERT INTO endpoints SELECT * FROM kept WHERE id = 'a'";

impl House {
    /// Runs statements behind the back of a store that is closed.
    async fn script(&self, sql: &str) {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match &self.location {
            Location::Directory(folder) => {
                let url = format!("sqlite://{}", folder.join("hookwire.db").display());
                sqlx::SqliteConnection::connect(&url).await.unwrap().execute(sql).await.unwrap();
            }
            Location::Server(server) => {
                server.connect("test").await.unwrap().execute(sql).await.unwrap();
            }
        }
    }

    /// Opened anew after some statements.
    async fn after(self, sql: &str) -> Self {
        self.store.close().await.unwrap();
        self.script(sql).await;
        let Self { store, location, _folder } = self;
        drop(store);
        Self { store: super::open(&location, 3).await, location, _folder }
    }

    /// Bytes as SQL writes them.
    fn bytes(&self, bytes: &[u8]) -> String {
        match &self.location {
            Location::Directory(_) => format!("x'{}'", hex::encode(bytes)),
            Location::Server(_) => format!("'\\x{}'", hex::encode(bytes)),
        }
    }

    fn found(&self, id: &str) -> std::sync::Arc<Endpoint> {
        self.store.routes().find(TENANT, id).expect("the endpoint")
    }

    /// Gives an endpoint another header, and so another version.
    async fn set_header(&self, id: &str, value: &'static str) -> Edited<()> {
        let set = move |endpoint: &mut Endpoint| {
            let header = Header { value: value.into(), sensitive: true };
            endpoint.headers.insert("x-key".to_owned(), header);
            Ok(())
        };
        self.store.edit_endpoint(TENANT, id.to_owned(), None, NOW, set).await.unwrap()
    }

    fn header(&self, id: &str) -> String {
        self.found(id).headers["x-key"].value.expose().to_owned()
    }

    /// `a` is quarantined and `b` is as it was.
    fn only_a_is_quarantined(&self) {
        let a = self.found("a");
        assert!(a.quarantined && a.headers.is_empty() && a.secrets.is_empty());
        assert_eq!(a.state, EndpointState::AutoDisabled);
        assert!(a.state_reason.contains("its stored secrets cannot be read"), "{}", a.state_reason);
        assert_eq!((self.found("b").quarantined, self.header("b").as_str()), (false, "b1"));
    }
}

pub async fn a_row_that_is_put_back_or_altered_is_quarantined_alone(house: House) {
    for (id, value) in [("a", "a1"), ("b", "b1")] {
        house.endpoint(id).await;
        house.set_header(id, value).await;
    }
    let house = house.after("CREATE TABLE kept AS SELECT * FROM endpoints").await;
    house.set_header("a", "a2").await;
    let house = house.after("CREATE TABLE newest AS SELECT * FROM endpoints").await;
    assert_eq!(house.header("a"), "a2");

    let house = house
        .after("UPDATE endpoints SET sealed = (SELECT sealed FROM kept WHERE id = 'a') WHERE id = 'a'")
        .await;
    house.only_a_is_quarantined();
    assert_eq!(house.set_header("a", "a3").await, Edited::Quarantined);
    let house = house.after(ALL).await;
    house.only_a_is_quarantined();
    let altered = house.bytes(&[2; 60]);
    let house = house.after(&format!("UPDATE endpoints SET sealed = {altered} WHERE id = 'a'")).await;
    house.only_a_is_quarantined();
    let house = house.after("UPDATE endpoints SET sealed = NULL, secrets = '[]' WHERE id = 'a'").await;
    house.only_a_is_quarantined();
    // What does not open is not sealed anew either.
    assert!(house.store.is_stale());
    let done = house.store.reseal(EndpointKey(0)).await.unwrap();
    assert_eq!((done.rows, done.unreadable), (0, 1));

    // Restored, it is as it was; deleted, it cannot be brought back.
    let house = house.after(&ALL.replace("kept", "newest")).await;
    assert_eq!(house.header("a"), "a2");
    house.store.delete_endpoint(TENANT, "a".to_owned(), None, NOW).await.unwrap();
    let house = house.after(&ALL.replace("kept", "newest")).await;
    house.only_a_is_quarantined();
}

pub async fn without_the_record_of_versions_no_row_opens_and_new_ones_do(house: House) {
    house.endpoint("a").await;
    let altered = house.bytes(&[2; 60]);
    let house = house.after(&format!("UPDATE endpoint_versions SET sealed = {altered}")).await;
    assert!(house.found("a").quarantined);
    assert!(!house.endpoint("b").await.quarantined);
    let house = house.reopened().await;
    assert!(house.found("a").quarantined && !house.found("b").quarantined);
}

pub async fn rows_of_the_form_before_open_once_and_are_sealed_anew(house: House) {
    let endpoint = house.endpoint("a").await;
    house.set_header("a", "a1").await;
    let vault = Config::sample(house.location.clone()).vault;
    let private = Private::of(&house.found("a")).to_bytes();
    let before = vault.seal_unversioned(place(TENANT, "a", 0), &private);
    assert!(!is_versioned(&before));
    let before = house.bytes(&before);
    let set = format!("UPDATE endpoints SET sealed = {before}");
    let house = house.after(&format!("{set}; DELETE FROM endpoint_versions")).await;
    assert!(house.store.is_stale());
    assert_eq!(house.header("a"), "a1");
    let done = house.store.reseal(EndpointKey(0)).await.unwrap();
    assert_eq!((done.rows, done.last), (1, Some(endpoint.key)));
    assert_eq!(house.store.reseal(endpoint.key).await.unwrap().last, None);

    let house = house.reopened().await;
    assert_eq!((house.store.is_stale(), house.header("a").as_str()), (false, "a1"));
    let house = house.after(&set).await;
    assert!(house.found("a").quarantined, "the form before does not come back");
}
