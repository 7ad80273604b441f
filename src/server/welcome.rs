//! What a server says once it is ready.

use std::net::SocketAddr;

use super::Profile;

/// Where it is, and what to type next.
pub(super) fn text(profile: &Profile, address: SocketAddr, encrypted: bool) -> String {
    let scheme = if encrypted { "https" } else { "http" };
    match profile {
        Profile::Dev(dev) => {
            let data_dir = dev.server.data_dir.display();
            let place = match &dev.server.store.store {
                Some(_) => format!("the database given by --store, and the master key in {data_dir}"),
                None => data_dir.to_string(),
            };
            development(address, &place)
        }
        Profile::Serve(_) => format!("Hookwire is ready on {scheme}://{address}\n"),
    }
}

/// What to type next, for whoever just started a server.
fn development(address: SocketAddr, place: &str) -> String {
    let url = format!("http://{address}");
    format!(
        "Hookwire is ready on {url}\n\
         Everything is kept in {place}. In another terminal:\n\n\
         # register the built-in test receiver\n\
         curl -s {url}/v1/endpoints --json '{{\"url\":\"{url}/test/webhook\",\"event_types\":[\"user.*\"]}}'\n\n\
         # publish an event\n\
         curl -s {url}/v1/events --json '{{\"event_type\":\"user.created\",\"payload\":{{\"value\":{{\"user_id\":\"12345\"}}}}}}'\n\n\
         # watch deliveries, from the oldest on\n\
         curl -sN '{url}/v1/deliveries:watch?earliest=true'\n\n\
         # see what the test receiver got, and what was given up\n\
         curl -s {url}/test/webhook\n\
         curl -s {url}/v1/deadLetters\n",
    )
}
