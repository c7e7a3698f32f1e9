"""The demo model's shape: Stable Diffusion's, but small (UNet with self- and cross-attention, AutoencoderKL f8 with
4 latent channels, 256x256 images). The same weights load into diffusers and into ComfyUI."""

LATENT_SCALE = 0.18215  # Stable Diffusion's, so that ComfyUI's SD latent format fits as it is
CONTEXT_TOKENS = 16
CONTEXT_DIM = 64
IMAGE_SIZE = 256

VAE_CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(32, 64, 128, 128),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    norm_num_groups=32,
    sample_size=IMAGE_SIZE,
    scaling_factor=LATENT_SCALE,
)

UNET_CONFIG = dict(
    sample_size=IMAGE_SIZE // 8,
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128, 128),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=CONTEXT_DIM,
    attention_head_dim=(2, 4, 4),  # diffusers means the number of heads: 32 channels each
    use_linear_projection=True,
)

# The same shapes in the names of ComfyUI, which are those of the original Stable Diffusion.
COMFY_UNET_CONFIG = dict(
    image_size=IMAGE_SIZE // 8,
    in_channels=4,
    out_channels=4,
    model_channels=64,
    channel_mult=[1, 2, 2],
    num_res_blocks=[1, 1, 1],
    transformer_depth=[1, 1, 0],
    transformer_depth_middle=1,
    transformer_depth_output=[1, 1, 1, 1, 0, 0],
    num_head_channels=32,
    num_heads=-1,
    context_dim=CONTEXT_DIM,
    use_spatial_transformer=True,
    use_linear_in_transformer=True,
    use_checkpoint=False,
    use_temporal_attention=False,
    adm_in_channels=None,
    legacy=False,
)

COMFY_VAE_CONFIG = dict(
    double_z=True,
    z_channels=4,
    resolution=IMAGE_SIZE,
    in_channels=3,
    out_ch=3,
    ch=32,
    ch_mult=[1, 2, 4, 4],
    num_res_blocks=1,
    attn_resolutions=[],
    dropout=0.0,
)
