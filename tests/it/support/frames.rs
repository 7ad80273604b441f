//! HTTP/2 written by hand, as no library would.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

/// How HTTP/2 begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

/// The last data or headers of a stream.
pub const END_STREAM: u8 = 1;
/// The last of the headers.
pub const END_HEADERS: u8 = 4;
/// The answer to a ping or to settings.
pub const ACK: u8 = 1;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client says first: the preface, its settings (id and value), and that it
/// takes a gigabyte on the connection.
pub fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    let mut opening = PREFACE.to_vec();
    opening.extend(frame(SETTINGS, 0, 0, &payload));
    opening.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
    opening
}

/// The headers of a gRPC call, none of them compressed.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        header(&mut block, name, value.as_bytes());
    }
    block
}

/// Adds one header as a literal.
pub fn header(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0);
    for text in [name.as_bytes(), value] {
        assert!(text.len() < 127, "a length of one byte");
        block.push(u8::try_from(text.len()).expect("small"));
        block.extend(text);
    }
}

/// One gRPC message.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(bytes.len()).expect("small").to_be_bytes());
    message.extend(bytes);
    message
}

/// Connects from one of the addresses of this machine, 127.0.0.N: each has ports of its
/// own to connect from.
pub async fn connect_from(last: u8, port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends this and then whatever `more` makes, until the other end hangs up. Tells the error code of its GOAWAY, if it said one.
pub async fn until_hung_up(
    stream: TcpStream,
    first: Vec<u8>,
    mut more: impl FnMut() -> Option<Vec<u8>> + Send + 'static,
    limit: Duration,
) -> Option<u32> {
    let (mut incoming, mut outgoing) = stream.into_split();
    let writing = tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(bytes) = next {
            if outgoing.write_all(&bytes).await.is_err() {
                break;
            }
            next = more();
        }
        // Kept open: hanging up is the server's part.
        outgoing
    });
    let reading = async {
        let mut told = None;
        while let Ok((kind, _, payload)) = read_frame(&mut incoming).await {
            if kind == GOAWAY {
                told = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().expect("four")));
            }
        }
        told
    };
    let told = timeout(limit, reading).await.expect("the server hangs up");
    writing.abort();
    told
}

/// Kind, flags and payload of the next frame.
pub async fn read_frame(incoming: &mut OwnedReadHalf) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    incoming.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).expect("small")];
    incoming.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}

/// Reads what comes until the end, answers pings, and gives nothing else back.
pub async fn stay(stream: TcpStream) {
    let (mut incoming, mut outgoing) = stream.into_split();
    while let Ok((kind, flags, payload)) = read_frame(&mut incoming).await {
        let pinged = kind == PING && flags & ACK == 0;
        if pinged && outgoing.write_all(&frame(PING, ACK, 0, &payload)).await.is_err() {
            return;
        }
    }
}
