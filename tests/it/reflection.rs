//! A stranger with a generic gRPC client finds out everything by asking.
//!
//! `grpcurl -plaintext localhost:8000 list` must work without a proto file, with
//! old tools (v1alpha) and new ones (v1), and a load balancer must be able to ask
//! for the health of each service.

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::Server;

const SERVICES: [&str; 5] = [
    "hookwire.v1.DeadLetterService",
    "hookwire.v1.DeliveryService",
    "hookwire.v1.EndpointService",
    "hookwire.v1.EventService",
    "hookwire.v1.OperationService",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_listed_by_reflection_v1() {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(server.api().channel);
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("hookwire.v1.EventService.PublishEvent".to_owned())),
    ];
    let call = client.server_reflection_info(tokio_stream::iter(questions)).await;
    let mut stream = call.expect("reflection").into_inner();

    let answer = stream.message().await.expect("no error").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
    let answer = stream.message().await.expect("no error").expect("an answer").message_response;
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer else { panic!("{answer:?}") };
    assert!(!files.file_descriptor_proto.is_empty(), "a method is described");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_listed_by_reflection_v1alpha() {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(server.api().channel);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let call = client.server_reflection_info(tokio_stream::once(question)).await;
    let mut stream = call.expect("reflection").into_inner();

    let answer = stream.message().await.expect("no error").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_for_the_server_and_for_each_service() {
    let server = Server::start().await;
    let mut client = HealthClient::new(server.api().channel);
    for service in [""].iter().chain(&SERVICES) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let response = client.check(request).await.unwrap_or_else(|status| panic!("{service:?}: {status:?}"));
        assert_eq!(response.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "hookwire.v1.NoSuchService".to_owned() };
    let unknown = client.check(request).await.expect_err("unknown");
    assert_eq!(unknown.code(), tonic::Code::NotFound, "{unknown:?}");
}
