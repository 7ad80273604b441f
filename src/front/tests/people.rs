//! Who is there, as every way in tells it.

use std::net::IpAddr;

use super::*;
use crate::{
    grpc::pb::{
        delivery_service_client::DeliveryServiceClient, endpoint_service_client::EndpointServiceClient,
    },
    peer::Peer,
};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn seen(fake: &Fake) -> Peer {
    fake.peer.lock().unwrap().take().expect("a request with a peer")
}

#[tokio::test]
async fn every_way_in_tells_who_is_there() {
    let fake = Fake::default();
    let address = start(&fake, config()).await;
    let stream = || async { TcpStream::connect(address).await.unwrap() };

    let channel = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let request = pb::GetEndpointRequest { id: "e".to_owned() };
    EndpointServiceClient::new(channel.clone()).get_endpoint(request).await.unwrap();
    assert_eq!(seen(&fake).address.ip(), LOOPBACK);
    let request = pb::WatchDeliveriesRequest::default();
    DeliveryServiceClient::new(channel).watch_deliveries(request).await.unwrap();
    assert_eq!(seen(&fake).address.ip(), LOOPBACK);

    let connection = stream().await;
    let told = connection.local_addr().unwrap();
    assert!(ask(connection, "/v1/endpoints/e", "").await.starts_with("HTTP/1.1 200"));
    assert_eq!(seen(&fake), Peer { address: told, certificate: None, proxied: false });
    ask(stream().await, "/v1/deliveries:watch?resume_token=finite", "").await;
    assert_eq!(seen(&fake).address.ip(), LOOPBACK);

    let web = b"POST /hookwire.v1.EndpointService/GetEndpoint HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/grpc-web+proto\r\ncontent-length: 8\r\n\r\n\0\0\0\0\x03\x0a\x01e";
    let mut connection = stream().await;
    connection.write_all(web).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(seen(&fake).address.ip(), LOOPBACK);
}

#[tokio::test]
async fn an_address_told_by_a_header_counts_only_from_a_trusted_proxy() {
    let fake = Fake::default();
    let told = "x-forwarded-for: 203.0.113.7, 198.51.100.1\r\n";
    for (trusted, expected) in [("127.0.0.0/8", "198.51.100.1"), ("10.0.0.0/8", "127.0.0.1")] {
        let trusted_proxies = [trusted.parse().unwrap()].into();
        let address = start(&fake, Config { trusted_proxies, ..config() }).await;
        ask(TcpStream::connect(address).await.unwrap(), "/v1/endpoints/e", told).await;
        assert_eq!(seen(&fake).address.ip().to_string(), expected, "{trusted}");
    }
}
